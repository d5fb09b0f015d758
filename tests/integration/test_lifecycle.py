"""`interceptor run`: as if the command had been started directly, but in the mesh; and gone when it ends."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import AgentError
from interceptor.kernel import netns as kernel_netns
from tests.harness.process import is_alive, read_line, wait_until
from tests.integration.traces import bridge_ports, links

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.node import Node
    from tests.harness.process import Result

pytestmark = [pytest.mark.netns, pytest.mark.bpf, pytest.mark.timeout(60)]


def run(node: Node, *command: str | Path, account: str = "job", input_bytes: bytes = b"") -> Result:
    return node.cli("run", "--service-account", account, "--", *command, input_bytes=input_bytes)


@contextlib.contextmanager
def started(node: Node, script: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell script as a workload, in a process group of its own; it has printed its first line when this returns."""
    process = subprocess.Popen(
        [*node.command(), "run", "--service-account", "job", *options, "--", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = read_line(process.stdout.fileno(), 30)
        assert line, process.stderr.read()
        process.first_line = line.strip()  # type: ignore[attr-defined]
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def wait_until_withdrawn(node: Node, name: str = "job") -> None:
    wait_until(lambda: name not in {w["name"] for w in node.workloads()}, f"{name} is withdrawn")
    assert not (node.run_dir / "netns" / f"default.{name}").exists()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["no-such-command"], 127),
        (["/no/such/command"], 127),
        (["/etc/passwd"], 126),
        (["/etc"], 126),
    ],
)
def test_exit_status_is_the_commands(shared_node: Node, command: list[str], status: int) -> None:
    result = run(shared_node, *command)
    assert result.status == status
    if status in (126, 127):
        assert result.stderr.startswith(f"interceptor: {command[0]}: ")
        assert len(result.stderr.splitlines()) == 1
    else:
        assert result.stderr == ""


def test_options_of_the_command_are_the_commands_own(shared_node: Node) -> None:
    result = run(
        shared_node, sys.executable, "-c", "import sys; print(sys.argv[1:])", "--name", "-o", "--help"
    )
    assert result.stdout == "['--name', '-o', '--help']\n"


def test_standard_input_and_output_pass_through(shared_node: Node) -> None:
    data = os.urandom(10 * 1024 * 1024)
    result = run(shared_node, "cat", input_bytes=data).check()
    assert hashlib.sha256(result.stdout_bytes).digest() == hashlib.sha256(data).digest()


def test_environment_directory_and_descriptors_are_as_outside(shared_node: Node, tmp_path: Path) -> None:
    code = "import os; print(os.environ['COLOUR'], os.getcwd(), sorted(os.listdir('/proc/self/fd'))[:4])"
    process = subprocess.run(
        [*shared_node.command(), "run", "--service-account", "job", "--", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "COLOUR": "green"},
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout == f"green {tmp_path} ['0', '1', '2', '3']\n"  # 3 is the listing itself


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signal_reaches_the_command(shared_node: Node, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    with started(
        shared_node, f"trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
    ) as process:
        os.kill(process.pid, number)
        assert process.wait(10) == 9
        assert process.stdout is not None
        assert process.stdout.read() == b"got\n"
    wait_until_withdrawn(shared_node)


def test_signals_are_set_as_for_any_program(shared_node: Node) -> None:
    """Nothing blocked, nothing ignored: what Python does to SIGPIPE would confuse a shell."""
    status = run(shared_node, "grep", "^Sig[BI]", "/proc/self/status").check().stdout
    blocked, ignored = (int(line.split()[1], 16) for line in status.splitlines())
    # glibc's posix_spawn, by which make started us, leaves its own two (32 and 33) ignored.
    assert (blocked, ignored & ~(0b11 << 31)) == (0, 0)


def test_interrupt_of_a_terminal_ends_the_command_once(shared_node: Node) -> None:
    """The terminal signals the whole foreground group: it must not arrive a second time by way of us."""
    script = "n=0; trap 'n=$((n+1))' INT; echo ready; while [ $n -eq 0 ]; do sleep 0.05; done; sleep 0.3; exit $((40+n))"
    pid, terminal = pty.fork()
    if pid == 0:
        command = [*shared_node.command(), "run", "--service-account", "job", "--", "sh", "-c", script]
        os.execv(command[0], command)
    try:
        output = b""
        while b"ready" not in output:
            output += os.read(terminal, 1024)
        os.write(terminal, b"\x03")
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 41
    wait_until_withdrawn(shared_node)


def test_run_that_is_killed_takes_its_command_along(shared_node: Node) -> None:
    before = bridge_ports(shared_node.bridge)
    with started(shared_node, "sleep 300 & echo $!; exec sleep 300") as process:
        made = bridge_ports(shared_node.bridge) - before
        assert len(made) == 1
        background = int(process.first_line)  # type: ignore[attr-defined]
        children = [p for p in _children(process.pid) if is_alive(p)]
        assert children
        process.kill()
        process.wait()
        wait_until_withdrawn(shared_node)
        wait_until(lambda: not any(map(is_alive, [background, *children])), "nothing of it runs on")
    wait_until(lambda: not links() & made, "its link is gone")


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123
        return [int(word) for word in file.read().split()]


def test_what_a_command_leaves_in_the_background_ends_with_it(shared_node: Node) -> None:
    result = run(shared_node, "sh", "-c", "sleep 300 >&- 2>&- & echo $!").check()
    wait_until(lambda: not is_alive(int(result.stdout)), "it is ended")
    wait_until_withdrawn(shared_node)


def test_same_name_at_once_is_refused(shared_node: Node) -> None:
    before = bridge_ports(shared_node.bridge)
    with started(shared_node, "echo ready; sleep 300", "--name", "only"):
        made = bridge_ports(shared_node.bridge) - before
        assert len(made) == 1
        result = shared_node.cli("run", "--service-account", "job", "--name", "only", "--", "true")
        assert result.status == 1
        assert result.stderr == (
            "interceptor: workload default/only is enrolled already: choose another --name\n"
        )
        assert run(shared_node, "true", account="only").status == 0  # without a name it gets a number
    wait_until_withdrawn(shared_node, "only")
    wait_until(lambda: not links() & made, "its link is gone")
    wait_until(lambda: bridge_ports(shared_node.bridge) <= before, "so are those of the others")


def test_owner_of_a_run_must_exist(shared_node: Node) -> None:
    with pytest.raises(AgentError, match="process 4194000 does not exist"):
        shared_node.ask("run", pid=4194000, service_account="job", namespace="default", name=None)


_TALK = """
import socket, sys, threading, time
name, *others = sys.argv[1:]
server = socket.create_server(("", 7000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
def serve():
    while True:
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(name.encode())
threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
for other in others:
    deadline = time.monotonic() + 40
    while True:
        try:
            with socket.create_connection((other, 7000), 10) as sock:
                assert sock.recv(100) == other.encode(), other
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)  # it has not come up yet
print("done", flush=True)
sys.stdin.read()
"""


def test_thirty_started_at_once_reach_each_other_by_name(shared_node: Node) -> None:
    """Also those that started later: /etc/hosts is kept current in all of them.

    A name that is not there yet is looked for in the DNS, which nobody answers there: for 10 s, if not told otherwise.
    """
    count = 30
    processes = [
        subprocess.Popen(
            [
                *(
                    *shared_node.command(),
                    "run",
                    "--service-account",
                    "many",
                    "--name",
                    f"many-{number}",
                    "--",
                ),
                *(sys.executable, "-c", _TALK, f"many-{number}"),
                *(f"many-{(number + step) % count}" for step in (1, 7, 15, 29)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "RES_OPTIONS": "timeout:1 attempts:1"},
        )
        for number in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert read_line(process.stdout.fileno(), 50) == "ready\n"
        for process in processes:
            assert process.stdout is not None
            assert read_line(process.stdout.fileno(), 50) == "done\n"
    finally:
        _end(processes)
    assert {process.returncode for process in processes} == {0}
    wait_until(
        lambda: not any(w["name"].startswith("many") for w in shared_node.workloads()), "all are withdrawn"
    )


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Let them end by the end of their input, or make them."""
    deadline = time.monotonic() + 30
    for process in processes:  # all at once
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    for process in processes:
        try:
            process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def test_many_without_a_name_get_different_ones(shared_node: Node) -> None:
    command = [*shared_node.command(), "run", "--service-account", "swarm", "--", "cat"]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(6)]
    try:
        wait_until(
            lambda: sum(w["name"].startswith("swarm") for w in shared_node.workloads()) == len(processes),
            "all are enrolled",
        )
        addresses = [a for w in shared_node.workloads() for a in w["addresses"]]
        assert len(set(addresses)) == len(addresses)
    finally:
        _end(processes)
    assert {process.returncode for process in processes} == {0}


def test_names_of_other_namespaces_are_qualified(shared_node: Node) -> None:
    shop = shared_node.workload("db", namespace="shop")
    home = shared_node.workload("web")
    hosts = home.run("cat", "/etc/hosts").check().stdout
    assert f"{shop.ipv4} db.shop\n" in hosts
    assert f"{home.ipv4} web web.default\n" in hosts
    assert "127.0.0.1" in hosts
    shop.close()
    wait_until(lambda: "db.shop" not in home.run("cat", "/etc/hosts").check().stdout, "it is taken out")
    home.close()
    assert "db.shop" not in Path("/etc/hosts").read_text()


def test_names_cannot_be_changed_by_a_workload(shared_node: Node) -> None:
    """The file is the same for all of them: who writes to it would send the others elsewhere."""
    result = run(shared_node, "sh", "-c", "echo 192.0.2.1 db.shop >> /etc/hosts")
    assert result.status != 0
    assert "Read-only file system" in result.stderr


def test_command_outlives_an_agent_that_is_killed(node: Node) -> None:
    with started(node, "echo ready; read line < /dev/null; sleep 1.5; exit 5") as process:
        node.kill()
        assert process.wait(20) == 5
        assert process.stderr is not None
        (line,) = process.stderr.read().decode().splitlines()
        assert line.startswith("interceptor: default/job was not withdrawn: the agent has died")
    result = node.cli("run", "--service-account", "job", "--", "true")
    assert result.status == 1
    assert "the agent has died" in result.stderr
    node.up().check()
    assert node.workloads() == []
    assert run(node, "true").status == 0


def test_namespace_of_a_run_has_nothing_but_its_link(shared_node: Node) -> None:
    result = run(shared_node, "sh", "-c", "ls /sys/class/net 2>/dev/null; cat /proc/net/dev").check()
    names = {line.split(":")[0].strip() for line in result.stdout.splitlines() if ":" in line}
    assert names >= {"eth0", "lo"}
    assert not any(name.startswith(("icpt", "itest")) for name in names)


def test_command_ends_before_the_agent_notices(shared_node: Node) -> None:
    """Very short commands, one after the other, under one name."""
    started_at = time.monotonic()
    for _ in range(3):
        shared_node.cli("run", "--service-account", "blink", "--name", "blink", "--", "true").check()
    assert time.monotonic() - started_at < 30
    assert not kernel_netns.NAMED_NAMESPACES.joinpath("default.blink").exists()
