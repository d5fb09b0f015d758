"""doctor network-policy as a person, a script and `kubectl apply` see it; no root, no agent, no machine to look at."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.harness.process import CLI, run
from tests.network_policy.world import namespace, policy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness.process import Result

LOST = policy(
    "podSelector: {matchLabels: {app: web}}\ningress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]"
)
WIDENED = policy(
    "podSelector: {matchLabels: {app: high}}\ningress: [{ports: [{port: 1024, endPort: 32767}]}]", name="high"
)
UNCHANGED = policy("podSelector: {}", name="deny")


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """A directory with a policy of each sort, something else, and files that are none of ours."""
    (tmp_path / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "a.yaml").write_text(UNCHANGED + "---\nkind: Deployment\napiVersion: apps/v1\n")
    (tmp_path / "deep" / "b.yml").write_text(LOST)
    (tmp_path / "deep" / "c.json").write_text(json.dumps(yaml.safe_load(WIDENED)))
    (tmp_path / ".git" / "d.yaml").write_text("{{ nonsense")
    (tmp_path / "README.md").write_text("{{ nonsense")
    return tmp_path


def ask(*words: str | Path, given: str = "") -> Result:
    return run([CLI, "doctor", "network-policy", *words], input_bytes=given.encode())


def test_directory_is_read_and_every_rule_that_changes_is_told(manifests: Path) -> None:
    result = ask(manifests)
    assert (result.status, result.stderr) == (1, "")
    assert result.stdout.splitlines() == [
        f"failure  shop/web ingress[0]  {manifests}/deep/b.yml:6",
        "         80/TCP from all pods: what these ports let through uses port 15008 now, and is dropped",
        f"warning  shop/high ingress[0]  {manifests}/deep/c.json:1",
        "         1024-32767/TCP from anybody: the range contains 15008, so what comes through the tunnel may reach",
        "         every port",
        "no namespace was given: all count as being in the mesh, but kube-node-lease, kube-public, kube-system",
        "3 NetworkPolicies read: 1 rule lost, 1 rule opened too far; --companions prints what can be applied beside them",
    ]


def test_json_has_stable_keys_and_shortens_nothing(manifests: Path) -> None:
    result = ask(manifests, "-o", "json", "--enrol", "shop")
    assert result.status == 1
    answer = json.loads(result.stdout)
    first = answer["findings"][0]
    assert answer | {"findings": []} == {
        "namespaces": ["shop"],
        "policies": 3,
        "not_looked_at": {},
        "other_documents": 1,
        "findings": [],
    }
    assert first == {
        "level": "failure",
        "namespace": "shop",
        "name": "web",
        "rule": "ingress[0]",
        "effect": "stops_matching",
        "explanation": "what these ports let through uses port 15008 now, and is dropped",
        "ports": ["80/TCP"],
        "peers": ["all pods"],
        "file": f"{manifests}/deep/b.yml",
        "line": 6,
    }
    assert yaml.safe_load(ask(manifests, "-o", "yaml", "--enrol", "shop").stdout) == answer


def test_standard_input_is_read_and_labels_of_namespaces_decide() -> None:
    outside = ask("-", given=f"{LOST}---\n{namespace('shop')}")
    assert (outside.status, outside.stderr) == (0, "")
    assert outside.stdout == "in the mesh: no namespace\n1 NetworkPolicy read, none changes its meaning\n"
    inside = ask("-", given=f"{LOST}---\n{namespace('shop', **{'istio.io/dataplane-mode': 'ambient'})}")
    assert inside.status == 1
    assert "in the mesh: shop\n" in inside.stdout
    assert "standard input:6" in inside.stdout


def test_range_that_is_open_too_far_alone_is_a_warning_and_no_failure() -> None:
    assert ask("-", given=WIDENED).status == 0


def test_companions_are_documents_to_apply_after_which_nothing_is_lost(manifests: Path) -> None:
    printed = ask(manifests, "--companions").check().stdout
    kinds = [document["kind"] for document in yaml.safe_load_all(printed)]
    assert kinds == ["AuthorizationPolicy", "NetworkPolicy"]
    assert (
        "# The tunnel is open too far in shop/high, and stays so: ingress[0] of shop/high has a range"
        in printed
    )
    (manifests / "companions.yaml").write_text(printed)
    assert ask(manifests).status == 0
    assert ask("-", "--companions", given=UNCHANGED).check().stdout.startswith("# nothing to apply")


def test_addresses_of_pods_can_be_given() -> None:
    blocks = policy("podSelector: {}\negress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 443}]}]")
    guessed = ask("-", given=blocks)
    assert "--pod-cidr says where they really are" in guessed.stdout
    told = ask("-", "--pod-cidr", "10.244.0.0/16", given=blocks)
    assert "443/TCP to 10.244.0.0/16:" in told.stdout
    assert "--pod-cidr" not in told.stdout


def test_policies_of_other_kinds_are_told_of_as_not_looked_at() -> None:
    result = ask("-", given="kind: CiliumNetworkPolicy\napiVersion: cilium.io/v2\n").check()
    assert "not looked at, though they decide too: 1 CiliumNetworkPolicy of cilium.io/v2" in result.stdout


def test_every_file_that_is_wrong_is_named_and_nothing_is_analysed(manifests: Path) -> None:
    (manifests / "x.yaml").write_text(LOST.replace("ports", "prots"))
    (manifests / "y.yaml").write_text("{{ .Values.x }}")
    result = ask(manifests)
    assert (result.status, result.stdout) == (1, "")
    first, second = result.stderr.splitlines()
    assert f"{manifests}/y.yaml:1:" in first
    assert f"{manifests}/x.yaml:6:" in second
    assert "did you mean 'ports'?" in second


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nonexistent.yaml"], "interceptor: /nonexistent.yaml: cannot be read, No such file or directory"),
        (["/proc/self/fdinfo"], "has no file that ends with .yaml, .yml, .json"),
    ],
)
def test_path_that_cannot_be_read_is_one_line(words: list[str], message: str) -> None:
    result = ask(*words)
    assert result.status == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: \xff")
    assert "a.yaml: is not UTF-8, at byte 3" in ask(tmp_path).stderr


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["-", "--enrol", "No_Name"],
        ["-", "--pod-cidr", "10.0.0.1/8"],
        ["-", "-n", ""],
        ["-", "-o", "table", "--unknown"],
    ],
)
def test_wrong_usage_is_status_2(words: list[str]) -> None:
    assert ask(*words).status == 2


def test_format_before_the_subcommand_is_wrong_usage() -> None:
    result = run([CLI, "doctor", "-o", "json", "network-policy", "-"])
    assert result.status == 2
    assert result.stderr == "interceptor: give -o after network-policy, whose format it shall be\n"
