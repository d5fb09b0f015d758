"""interceptor kubernetes manifests: what is printed, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from interceptor.cli.main import group
from interceptor.errors import ConfigError, InterceptorError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

NETWORKS = ("--mesh-cidr", "10.244.0.0/16", "--mesh-cidr", "10.96.0.0/12")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["kubernetes", "manifests", *arguments])


def objects(*arguments: str) -> list[dict[str, object]]:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.stdout))


def test_manifests_are_printed_for_kubectl() -> None:
    found = objects(*NETWORKS)
    assert [each["kind"] for each in found][:1] == ["Namespace"]
    as_json = json.loads(run(*NETWORKS, "-o", "json").stdout)
    assert (as_json["kind"], as_json["items"]) == ("List", found)


def test_options_come_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("meshCidrs: [10.0.0.0/8]\nnamespace: mesh\nprivileged: true\ncrds: only\n")
    assert {each["kind"] for each in objects("--values", str(file))} == {"CustomResourceDefinition"}
    text = run("--values", str(file), "--crds", "omit", "--namespace", "other", "--no-privileged").stdout
    assert "name: other" in text
    assert "mesh:interceptor" not in text
    assert "privileged: true" not in text
    assert "- 10.0.0.0/8" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the networks of all pods and of services, with --mesh-cidr"),
        (("--mesh-cidr", "10.0.0.1/8"), "--mesh-cidr: "),
        ((*NETWORKS, "--namespace", "Mesh"), "--namespace: "),
        (
            (*NETWORKS, "--mode", "strict"),
            "--mode: 'strict' is not a mode, use STRICT, PERMISSIVE or DISABLE",
        ),
        ((*NETWORKS, "--image", "a b"), "--image: 'a b' is not the name of an image"),
        (
            (*NETWORKS, "--authority-replicas", "0"),
            "--authority-replicas: 0 is out of range, expected 1 to 10",
        ),
        ((*NETWORKS, "--crds", "yes"), "--crds: 'yes' is not one of include, omit, only"),
    ],
)
def test_value_that_is_wrong_is_told_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, UsageError)
    assert str(result.exception).startswith(message)
    assert "\n" not in str(result.exception)
    assert result.stdout == ""


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_command_lines_in_the_manifests_are_ones_that_we_take(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_json = json.loads(run(*NETWORKS, "-o", "json").stdout)
    (found,) = [each for each in as_json["items"] if each["kind"] == kind]
    (container,) = found["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "node-1"))
    command: click.Command = group
    arguments = list(container["args"])
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    parameters = command.make_context(command.name, arguments).params
    if kind == "Deployment":
        assert parameters["secret"] == "interceptor/interceptor-authority"
        assert parameters["agents"] == "interceptor/interceptor-agent"
        assert str(parameters["audit_path"]) == "/var/log/interceptor/audit.jsonl"
        assert str(parameters["directory"]) == "/run/interceptor-authority/authority"
    else:
        assert str(parameters["config_path"]) == "/etc/interceptor/config.yaml"


def test_file_that_cannot_be_used_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    for content, message in (
        (b"\xff", f"cannot read {file}: it is not UTF-8"),
        (b"mode: strict", f"{file}:1: mode: 'strict' is not a mode"),
    ):
        file.write_bytes(content)
        result = run("--values", str(file))
        assert isinstance(result.exception, ConfigError)
        assert str(result.exception).startswith(message)
    result = run("--values", str(tmp_path / "none.yaml"))
    assert isinstance(result.exception, InterceptorError)
    assert "No such file" in str(result.exception)


def test_file_of_values_that_never_ends_is_refused():
    result = run("--values", "/dev/zero")
    assert isinstance(result.exception, ConfigError)
    assert "at most 65536 are allowed" in str(result.exception)
