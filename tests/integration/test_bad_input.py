"""What an operator can get wrong before the agent runs: one clear line with the remedy, and nothing half done."""

from __future__ import annotations

import os
import socket
import subprocess
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from interceptor.kernel.mounts import find_cgroup2
from tests.harness.process import run
from tests.integration.hostile import authority_of
from tests.integration.traces import links, pinned_links
from tests.integration.twin import setting, twin

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness.namespace import Workload
    from tests.harness.node import Node
    from tests.harness.process import Result

pytestmark = [pytest.mark.netns, pytest.mark.bpf, pytest.mark.timeout(120)]


@pytest.fixture
def idle(make_node: Callable[..., Node]) -> Node:
    """A node whose agent was not started."""
    return make_node(start=False)


def refusal(node: Node, result: Result, status: int = 1) -> str:
    """The one line that says what is wrong; nothing of the node is there."""
    assert result.status == status, result
    assert "Traceback" not in result.stderr + node.log()
    assert not node.bpf_dir.exists() or not list(node.bpf_dir.iterdir())
    assert node.bridge not in links()
    last = result.stderr.splitlines()[-1]
    assert last.startswith("interceptor: ")
    return last.removeprefix("interceptor: ")


CONFIGURATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": (
        {"mesh": {"cidr": ["10.0.0.0/8"]}},
        "unknown key 'mesh.cidr', did you mean 'mesh.cidrs'?",
    ),
    "bad network": ({"mesh": {"cidrs": ["10.0.0.0/33"]}}, "mesh.cidrs"),
    "host bits": ({"mesh": {"cidrs": ["10.0.0.1/8"]}}, "mesh.cidrs"),
    "bad mode": ({"mode": "Strict"}, "mode"),
    "bad lifetime": ({"certificates": {"lifetime": "25h"}}, "certificates.lifetime"),
    "bad trust domain": ({"trustDomain": "Cluster.Local"}, "trustDomain"),
    "not a mapping": ({"paths": "here"}, "paths"),
}


def test_bad_configuration_is_refused_with_file_and_key(idle: Node) -> None:
    good = idle.config
    for (change, words), command in zip(
        CONFIGURATIONS.values(), cycle(["up", "status", "down"]), strict=False
    ):
        idle.write_config({**good, **change})
        line = refusal(idle, idle.cli(command))
        assert line.startswith(f"{idle.config_path}:")
        assert words in line
        assert not idle.state_dir.exists()
    idle.write_config(good)


def test_missing_configuration_is_named(idle: Node) -> None:
    path = idle.directory / "no-such.yaml"
    result = run([*idle.command()[:1], "--config", path, "up"])
    assert result.status == 1
    assert f"{path} does not exist" in result.stderr


def test_metrics_port_that_is_taken_is_named(idle: Node) -> None:
    with socket.create_server(("127.0.0.1", idle.slot.metrics_port)):
        line = refusal(idle, idle.up())
    assert f"cannot listen on 127.0.0.1:{idle.slot.metrics_port} for metrics" in line
    assert "set metrics.address to a free port" in line


def _mode(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)


def _owner(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, 65534, 65534)


def _link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")


def _file(path: Path) -> None:
    path.write_text("")


DIRECTORIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "mode": (_mode, "has mode 0755, others can look into it: chmod 0700"),
    "owner": (_owner, "belongs to uid 65534: chown it"),
    "symbolic link": (_link, "is not a directory"),
    "file": (_file, "cannot use the directory"),
}


@pytest.mark.parametrize("which", ["state_dir", "run_dir"])
def test_directory_that_is_not_private_is_refused(idle: Node, which: str) -> None:
    path: Path = getattr(idle, which)
    for spoil, words in DIRECTORIES.values():
        spoil(path)
        line = refusal(idle, idle.cli("agent"))
        assert str(path) in line
        assert words in line
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            path.rmdir()


DAMAGES: list[tuple[str, bytes | None, str]] = [
    ("root.pem", b"", "root.pem is corrupt"),
    ("intermediate.pem", b"-----BEGIN CERTIFICATE-----\nMIIB", "intermediate.pem is corrupt"),
    ("intermediate.key", bytes(100), "intermediate.key is corrupt"),
    ("root.key", b"-----BEGIN PRIVATE KEY-----\n", "root.key is corrupt"),
    ("intermediate.key", None, "lacks intermediate.key"),
]


def test_authority_that_is_damaged_is_not_replaced(idle: Node) -> None:
    """A new one would be another trust domain's in all but name: that is the operator's to decide."""
    idle.state_dir.mkdir(mode=0o700)
    authority_of(idle)
    (directory,) = idle.state_dir.glob("authority/issuers/*")
    good = {path.name: path.read_bytes() for path in directory.iterdir()}
    for name, content, words in DAMAGES:
        path = directory / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        line = refusal(idle, idle.cli("agent"))
        assert words in line
        assert "restore it from a backup" in line
        found = {p.name: p.read_bytes() for p in directory.iterdir()}
        assert found == {n: c for n, c in {**good, name: content}.items() if c is not None}
        path.write_bytes(good[name])
        path.chmod(0o600)
    path.chmod(0o644)
    assert "is open to group or others (mode 0644)" in refusal(idle, idle.cli("agent"))
    path.chmod(0o600)
    idle.write_config({**idle.config, "trustDomain": "other.domain"})
    line = refusal(idle, idle.cli("agent"))
    assert "holds the authority of trust domain cluster.local, the configuration says other.domain" in line


@pytest.mark.parametrize("shared", ["paths.state", "paths.run", "paths.bpf"])
def test_second_agent_on_a_directory_of_the_first_is_refused(
    shared_node: Node, shared_client: Workload, tmp_path: Path, shared: str
) -> None:
    """Also when workloads are captured that the second one knows nothing of."""
    node, pid, before = shared_node, shared_node.agent_pid, pinned_links(shared_node)
    assert any(name.startswith("inbound") for name in before), shared_client
    result = run([*twin(node, tmp_path, shared), "agent"])
    assert result.status == 1
    assert result.stderr.splitlines()[-1] == (
        f"interceptor: another agent (pid {pid}) uses the directory {setting(node, shared)}: stop it with "
        f"'interceptor down' or by its pid, or give this one another {shared}"
    )
    assert node.agent_pid == pid
    assert pinned_links(node) == before
    assert not (tmp_path / "state" / "authority").exists()
    assert not Path(f"{node.bpf_dir}-2").exists()


def test_up_of_what_is_up_says_so(shared_node: Node) -> None:
    result = shared_node.up().check()
    assert result.stdout.startswith(f"already up: pid {shared_node.agent_pid}, ")


def test_two_ups_at_once_start_one_agent(idle: Node) -> None:
    processes = [
        subprocess.Popen([*idle.command(), "up"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60) for process in processes]
    statuses = sorted(process.returncode for process in processes)
    assert statuses in ([0, 0], [0, 1])
    assert idle.status()["ready"]
    if statuses == [0, 1]:
        (error,) = (err for _, err in answers if b"interceptor: " in err)
        assert b"another agent" in error
        assert b"Traceback" not in error


def test_path_that_cannot_be_right_is_refused(idle: Node) -> None:
    missing = find_cgroup2() / "no-such-group"
    good = idle.config
    for paths, words in (
        ({"bpf": str(idle.directory / "bpf")}, "is not in a BPF file system"),
        ({"bpf": "/sys/fs/bpf/no/such"}, "cannot make the directory /sys/fs/bpf/no/such"),
        ({"kernelHeaders": "/no/such"}, "/no/such"),
        ({"cgroup": str(missing)}, f"cannot open the cgroup {missing}"),
        ({"cgroup": "/tmp"}, "cannot attach the capture programs to the cgroup /tmp"),
    ):
        idle.write_config({**good, "paths": {**good["paths"], **paths}})  # type: ignore[dict-item]
        assert words in refusal(idle, idle.cli("agent"))
    idle.write_config(good)


@pytest.mark.parametrize("size", ["4k", "64k"])
def test_full_disk_for_the_state_is_named(idle: Node, size: str) -> None:
    """Too small for the log, for the authority, or for what comes later."""
    idle.state_dir.mkdir(mode=0o700)
    run(["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes=4,mode=0700", "none", idle.state_dir]).check()
    try:
        result = idle.up()
        assert result.status == 1
        assert "Traceback" not in result.stderr
        last = result.stderr.splitlines()[-1]
        assert last.startswith("interceptor: ")
        assert "no space left" in last.lower() or "see " in last
    finally:
        run(["umount", idle.state_dir]).check()


def test_read_only_state_directory_is_named(idle: Node) -> None:
    idle.state_dir.mkdir(mode=0o700)
    run(["mount", "-t", "tmpfs", "-o", "ro,mode=0700", "none", idle.state_dir]).check()
    try:
        result = idle.up()
        assert result.status == 1
        assert "read-only file system" in result.stderr.splitlines()[-1].lower()
        assert "Traceback" not in result.stderr
    finally:
        run(["umount", idle.state_dir]).check()


def test_read_only_run_directory_is_named(idle: Node) -> None:
    idle.run_dir.mkdir(mode=0o700)
    run(["mount", "-t", "tmpfs", "-o", "ro,mode=0700", "none", idle.run_dir]).check()
    try:
        line = refusal(idle, idle.cli("agent"))
        assert "read-only file system" in line.lower()
    finally:
        run(["umount", idle.run_dir]).check()


def test_without_root_nothing_is_attempted(idle: Node) -> None:
    # Everything is imported while we may: nobody may not be able to look into this directory.
    script = (
        "import importlib, os, pkgutil, interceptor\n"
        "for module in pkgutil.walk_packages(interceptor.__path__, 'interceptor.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "os.setgid(65534); os.setuid(65534); os.chdir('/'); interceptor.cli.main()"
    )
    python = idle.command()[0].replace("/interceptor", "/python")
    for command in (["up"], ["down"], ["run", "--service-account", "x", "true"], ["withdraw", "x"]):
        result = run(
            [python, "-c", script, *idle.command()[1:], *command], env={"PYTHONPATH": str(Path.cwd())}
        )
        assert result.status == 1, result
        assert "Traceback" not in result.stderr
        assert "root" in result.stderr or "denied" in result.stderr.lower()
    assert not idle.state_dir.exists()
