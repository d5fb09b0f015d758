"""`interceptor down`: whatever state things are in, nothing of ours is left, and nothing of anybody else's is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.mounts import parse_mountinfo
from tests.harness.process import is_alive, read_line, run, wait_until
from tests.harness.tcp import FAMILIES, connected, echo, receive_exactly, serving
from tests.integration.traces import bpf_objects, bridge_ports, existing, links, pinned_links, settings
from tests.integration.twin import setting, twin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.namespace import Namespace, Workload
    from tests.harness.node import Node
    from tests.harness.process import Result

pytestmark = [pytest.mark.netns, pytest.mark.bpf, pytest.mark.timeout(120)]
PORT = 7040


@contextlib.contextmanager
def leaving_nothing(node: Node, *, state_stays: bool = False) -> Iterator[None]:
    """For an agent that runs: whatever it has made is gone at the end of the body."""
    programs, maps = bpf_objects(node)
    inbound = [link for name, link in pinned_links(node).items() if name.startswith("inbound")]
    assert len(programs) >= 7
    assert len(maps) >= 10
    assert len(programs) >= 7 + len(inbound)
    ours = {name for name in links() if name.startswith("icpt")} & bridge_ports(node.bridge)
    yield
    wait_until(lambda: existing(programs, maps) == (set(), set()), "programs and maps are gone")
    assert not node.bpf_dir.exists()
    assert not node.run_dir.exists()
    assert node.state_dir.exists() == state_stays
    assert not links() & {node.bridge, *ours}
    assert not [
        m
        for m in parse_mountinfo(Path("/proc/self/mountinfo").read_text())
        if str(node.run_dir) in str(m.mount_point)
    ]
    assert str(node.slot.mesh_ipv4) not in run(["ip", "route"]).stdout


@contextlib.contextmanager
def running(
    node: Node, script: str = "echo $$; exec sleep 300"
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A workload of `interceptor run`, and the pid that its command prints."""
    command = [*node.command(), "run", "--service-account", "job", "--", "sh", "-c", script]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield process, int(read_line(process.stdout.fileno(), 30))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_down_ends_runs_and_gives_enrolled_namespaces_back(node: Node) -> None:
    blue, other = node.plain_namespace("blue"), node.plain_namespace("other")
    untouched = settings(blue)
    node.enrolled_namespace("blue", existing=blue)
    with running(node) as (process, pid), leaving_nothing(node):
        result = node.down().check()
        assert process.wait(10) == 128 + signal.SIGTERM
        assert not is_alive(pid)
        assert "withdrew default/blue" in result.stderr
        assert result.stdout == "down: nothing is captured any more\n"
    assert settings(blue) == untouched
    _assert_as_without_mesh(node, blue, other)
    again = node.down().check()
    assert again.stdout == result.stdout
    assert not node.state_dir.exists()


def _assert_as_without_mesh(node: Node, blue: Namespace, other: Namespace) -> None:
    """`down` took the bridge: join the two namespaces anew, and see that they talk in plaintext."""
    del node
    for namespace in (blue, other):
        with namespace.netns.entered(), IPRoute() as route:
            route.link("set", index=1, state="up")
    for family in FAMILIES:
        with serving(blue.listen(family, PORT), echo), blue.connect((blue.address(family), PORT)) as sock:
            sock.sendall(b"hello")
            assert sock.recv(5) == b"hello"


def test_down_keeps_the_state_when_told_to(node: Node) -> None:
    with leaving_nothing(node, state_stays=True):
        node.down("--keep-state").check()
    assert {path.name for path in node.state_dir.iterdir()} == {
        "agent.log",
        "authority",
        "recent-connections.jsonl",
        "recent-plaintext.jsonl",
    }
    (root_file,) = (node.state_dir / "authority" / "issuers").glob("*/root.pem")
    root = root_file.read_bytes()
    node.up().check()
    assert root_file.read_bytes() == root


def test_down_leaves_the_audit_trail_until_told_otherwise(node: Node) -> None:
    node.policies_dir.mkdir()
    (node.policies_dir / "broken.yaml").write_text("kind: Nothing\n")
    trail, older = node.state_dir / "audit.jsonl", node.state_dir / "audit.jsonl.2"
    wait_until(
        lambda: trail.exists() and "policy_refused" in trail.read_text(), "the refusal is in the trail"
    )
    older.write_text("{}\n")
    result = node.down().check()
    assert (
        f"the audit trail stays: {trail}; 'interceptor down --remove-audit' removes it too" in result.stderr
    )
    assert {path.name for path in node.state_dir.iterdir()} == {trail.name, older.name}
    assert "policy_refused" in trail.read_text()
    refused = node.down("--keep-state", "--remove-audit")
    assert (refused.status, trail.exists()) == (2, True)
    assert "--keep-state keeps the audit trail too" in refused.stderr
    assert "the audit trail stays" not in node.down("--remove-audit").check().stderr
    assert not node.state_dir.exists()


def test_down_without_an_agent_removes_what_a_dead_one_left(node: Node) -> None:
    blue = node.plain_namespace("blue")
    untouched = settings(blue)
    node.enrolled_namespace("blue", existing=blue)
    # The command ignores the polite signal, and leaves something in the background.
    script = "trap '' TERM; (trap '' TERM HUP; exec sleep 300 >&- 2>&-) & echo $!; while :; do sleep 1; done"
    with running(node, script) as (process, background), leaving_nothing(node):
        node.kill(signal.SIGKILL)
        result = node.down().check()
        assert process.wait(10) == -signal.SIGKILL
        wait_until(lambda: not is_alive(background), "the background process has ended")
        assert "no agent answers" in result.stderr
        assert "withdrawing default/job" in result.stderr
    assert settings(blue) == untouched


def test_state_file_that_is_corrupt_or_lost_stops_up_and_not_down(node: Node) -> None:
    blue = node.plain_namespace("blue")
    untouched = settings(blue)
    for content in (b'{"version": 1, "boot', None):
        node.up().check()
        node.enrolled_namespace("blue", existing=blue)
        with running(node) as (process, pid), leaving_nothing(node):
            node.kill()
            if content is None:
                (node.run_dir / "workloads.json").unlink()
                result = node.up()
                assert result.status == 1
                assert "2 network namespaces are captured" in result.stderr
                assert "'interceptor down' withdraws everything" in result.stderr
                result = node.down().check()
            else:
                _assert_up_refuses(node, content)
                result = node.down().check()
                assert "sysctls inside enrolled network namespaces stay" in result.stderr
            wait_until(lambda pid=pid: not is_alive(pid), "the command has ended")
            process.wait(10)
        assert {**settings(blue), "sysctls": None} == {**untouched, "sysctls": None}


def _assert_up_refuses(node: Node, content: bytes) -> None:
    node.run_dir.mkdir(mode=0o700, exist_ok=True)
    (node.run_dir / "workloads.json").write_bytes(content)
    result = node.up()
    assert result.status == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"interceptor: the state file {node.run_dir}/workloads.json cannot be used (")
    assert "'interceptor down' withdraws everything" in last
    assert len(last) < 600
    assert "Traceback" not in result.stderr


def test_down_when_nothing_was_ever_up_is_content(make_node: Callable[..., Node]) -> None:
    node = make_node(start=False)
    for _ in range(2):
        result = node.down().check()
        assert "does not exist" in result.stderr
        assert result.stdout == "down: nothing is captured any more\n"
    assert not node.state_dir.exists()
    assert not node.run_dir.exists()


def test_down_removes_nothing_that_is_not_ours(make_node: Callable[..., Node]) -> None:
    """Somebody configured directories that have other things in them, and a bridge that was there before."""
    node = make_node(start=False)
    precious = node.directory / "home"
    (precious / ".ssh").mkdir(parents=True)
    precious.chmod(0o700)
    (precious / ".ssh" / "id").write_text("precious")
    (precious / "hosts.txt").write_text("precious")
    run(["ip", "link", "add", f"{node.bridge}-br", "type", "bridge"]).check()
    node.write_config(
        {
            **node.config,
            "paths": {"state": str(precious), "run": str(precious), "bpf": str(node.bpf_dir)},
            "bridge": {**node.config["bridge"], "name": f"{node.bridge}-br"},  # type: ignore[dict-item]
        }
    )
    node.bpf_dir.mkdir()
    result = node.down()
    assert result.status == 1
    assert result.stderr.splitlines()[-1] == (
        f"interceptor: {precious} is left: it holds files that are not ours (Directory not empty)"
    )
    assert (precious / ".ssh" / "id").read_text() == "precious"
    assert (precious / "hosts.txt").read_text() == "precious"
    assert f"{node.bridge}-br" in links()

    precious.chmod(0o755)  # as /run is
    (precious / "netns").mkdir()
    with kernel_netns.create_named(precious / "netns" / "somebodys"):
        result = node.down()
        assert result.status == 1
        assert "has mode 0755" in result.stderr
        assert (precious / "netns" / "somebodys").exists()
    kernel_netns.remove_named(precious / "netns" / "somebodys")
    run(["ip", "link", "del", f"{node.bridge}-br"]).check()
    node.write_config(
        {
            **node.config,
            "paths": {"state": str(node.state_dir), "run": str(node.run_dir), "bpf": str(node.bpf_dir)},
        }
    )


def test_down_of_an_agent_that_hangs_says_which_process_it_is(node: Node) -> None:
    """It cannot be asked, and what it holds must not be pulled away from under it."""
    pid = node.agent_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        result = _impatient_down(node.command())
        assert result.status == 1
        assert f"another agent (pid {pid}) uses the directory {node.state_dir}" in result.stderr
        assert pinned_links(node)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_alive(pid), "it does in the end what it was asked")


def _impatient_down(command: list[str]) -> Result:
    """The command line waits for two minutes, and for a lock ten seconds; what it does then can be had at once."""
    code = (
        "import interceptor.cli.lifecycle as l, interceptor.agent.teardown as t, sys; "
        "l.DOWN_SECONDS = t.LOCK_SECONDS = 0.5; from interceptor.cli import main; main()"
    )
    return run([Path(command[0]).with_name("python"), "-c", code, *command[1:], "down"])


@pytest.mark.parametrize("shared", ["paths.state", "paths.bpf", "bridge.name"])
def test_down_with_something_of_a_running_agent_withdraws_nothing(
    shared_node: Node, shared_client: Workload, shared_server: Workload, tmp_path: Path, shared: str
) -> None:
    """Who shares its run-time directory asks it to stop; whoever shares anything else must leave it alone."""
    node, pid = shared_node, shared_node.agent_pid
    before, ports = pinned_links(node), bridge_ports(node.bridge)
    assert ports
    with connected(shared_client, shared_server) as (near, far):
        result = _impatient_down(twin(node, tmp_path, shared))
        assert result.status == 1
        expected = (
            f"bridge {node.bridge} belongs to the agent whose paths.run is {node.run_dir}: "
            if shared == "bridge.name"
            else f"another agent (pid {pid}) uses the directory {setting(node, shared)}: "
        )
        assert result.stderr.splitlines()[-1].startswith(f"interceptor: {expected}")
        near.sendall(b"hello")
        assert receive_exactly(far, 5) == b"hello"
    assert (pinned_links(node), bridge_ports(node.bridge), node.agent_pid) == (before, ports, pid)


def test_bpf_file_system_that_was_mounted_for_us_is_unmounted(make_node: Callable[..., Node]) -> None:
    """In a mount namespace without one, as a minimal container has it."""
    node = make_node(start=False)
    cli = " ".join(node.command())
    inside = (
        "mount --make-rprivate / && umount -l /sys/fs/bpf && ! mountpoint -q /sys/fs/bpf && "
        f"{cli} up && mountpoint -q /sys/fs/bpf && {cli} down && ! mountpoint -q /sys/fs/bpf && echo clean"
    )
    result = run(["unshare", "--mount", "sh", "-c", inside], timeout=90).check()
    assert result.stdout.splitlines()[-1] == "clean"
