"""What goes wrong while the agent runs: descriptors and disks run out, and people talk nonsense to it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor import admin
from tests.harness.process import run, wait_until
from tests.harness.tcp import connected, echo, serving
from tests.integration.traces import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.namespace import Namespace
    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf, pytest.mark.timeout(120)]
PORT = 7030


def _talks(source: Namespace, destination: Namespace) -> None:
    with connected(source, destination) as (near, far):
        near.sendall(b"hello")
        assert far.recv(5) == b"hello"


# Descriptors.


@contextlib.contextmanager
def few_descriptors(pid: int, count: int) -> Iterator[None]:
    """So many file descriptors and no more, as when every one is in use."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, hard))
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_agent_without_descriptors_keeps_what_it_has_and_recovers(node: Node) -> None:
    one, other = node.workload("one"), node.workload("other")
    blue = node.enrolled_namespace("blue")
    since = node.mark()
    with serving(other.listen(port=PORT), echo), one.connect((other.ipv4, PORT)) as first:
        first.sendall(b"before")
        assert first.recv(6) == b"before"
        pid = node.agent_pid
        with few_descriptors(pid, node.open_descriptors() + 6):
            with contextlib.ExitStack() as stack:
                for _ in range(40):
                    with contextlib.suppress(ConnectionError):
                        sock = stack.enter_context(one.connect((other.ipv4, PORT), timeout=1))
                        sock.setblocking(False)
                first.sendall(b"during")
                assert first.recv(6) == b"during"
                wait_until(lambda: "Too many open files" in node.log(), "it has none left")
            first.sendall(b"after!")
            assert first.recv(6) == b"after!"
        # Not even one: whatever the agent looks for now, it cannot open.
        with few_descriptors(pid, 3):
            time.sleep(2.5)  # two rounds of looking after its workloads
            first.sendall(b"little")
            assert first.recv(6) == b"little"
        assert {w["name"] for w in node.workloads()} == {"one", "other", "blue"}
        _talks(one, other)
        _talks(blue, other)
    refused = [r for r in node.records(since) if r["verdict"] == "denial"]
    assert {r["reason"] for r in refused} <= {
        "resources_exhausted",
        "destination_refused",
        "denied_by_peer",
        "handshake_failed",
        "handshake_timeout",
    }
    wait_until(lambda: not any(w["connections"] for w in node.workloads()), "all connections have ended")


# Disks.


def test_full_disk_loses_records_and_nothing_else(make_node: Callable[..., Node]) -> None:
    node = make_node(start=False)
    node.state_dir.mkdir(mode=0o700)
    run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "none", node.state_dir]).check()
    try:
        node.up().check()
        one, other = node.workload("one"), node.workload("other")
        with contextlib.suppress(OSError):
            (node.state_dir / "ballast").write_bytes(bytes(1 << 20))
        for _ in range(20):
            _talks(one, other)
        node.enrolled_namespace("blue")  # certificates and the list of workloads need no space there
        (node.state_dir / "ballast").unlink()
        wait_until(lambda: _has_record(node, one, other), "records are written again")
        assert node.ask("connections", limit=1000)
        for line in node.records_path.read_text().splitlines():
            json.loads(line)  # no half a line among them
        node.close_namespaces()
        node.down().check()
    finally:
        run(["umount", node.state_dir]).check()
        node.state_dir.rmdir()


def _has_record(node: Node, one: Namespace, other: Namespace) -> bool:
    since = node.mark()
    _talks(one, other)
    time.sleep(0.3)  # the agent writes five times a second
    return bool(node.records(since))


def test_run_directory_without_space_enrols_nobody_and_withdraws_all_the_same(
    make_node: Callable[..., Node],
) -> None:
    node = make_node(start=False)
    node.run_dir.mkdir(mode=0o700)
    run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "none", node.run_dir]).check()
    try:
        node.up().check()
        blue, green = node.plain_namespace("blue"), node.plain_namespace("green")
        untouched = settings(blue)
        node.enrolled_namespace("blue", existing=blue)
        with contextlib.suppress(OSError):
            (node.run_dir / "ballast").write_bytes(bytes(1 << 20))
        result = node.cli("enrol", "--netns", green.netns_path, "--service-account", "green")
        assert result.status == 1
        assert "No space left on device" in result.stderr
        assert settings(green) == untouched
        result = node.cli("run", "--service-account", "brief", "--", "true")
        assert result.status == 1
        assert "No space left on device" in result.stderr
        result = node.cli("withdraw", "blue")
        assert result.status == 1
        assert "No space left on device" in result.stderr
        assert settings(blue) == untouched
        (node.run_dir / "ballast").unlink()
        assert node.workloads() == []
        node.enrolled_namespace("green", existing=green)
        node.close_namespaces()
        node.cli("down")  # the directory itself is a mount point here, it cannot go
    finally:
        run(["umount", node.run_dir]).check()
        node.down().check()


# The admin socket.


@contextlib.contextmanager
def client(node: Node) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(15)
        sock.connect(str(node.run_dir / "admin.sock"))
        yield sock


def _answer(sock: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            received += data
    return received


@pytest.mark.parametrize(
    ("request_bytes", "words"),
    [
        (b"\x00\xff\xfe" * 1000 + b"\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"{}\n", "knows no command"),
        (b'{"command": "\\u0000"}\n', "knows no command"),
        (b'{"command": ["status"]}\n', "knows no command"),
        (b"[" * 60_000 + b"\n", "not JSON"),
        (b'{"command": "connections", "limit": 1e400}\n', "limit must be"),
        (b'{"command": "connections", "limit": -1}\n', "limit must be"),
        (b'{"command": "enrol", "netns": {"a": 1}, "service_account": "x"}\n', "netns is missing"),
        (b'{"command": "enrol", "pid": true, "service_account": "x"}\n', "pid must be"),
        (b'{"command": "enrol", "pid": 1e3, "service_account": "x"}\n', "pid must be"),
        (b'{"command": "run", "pid": "1"}\n', "pid must be"),
        (b'{"command": "withdraw", "name": 5}\n', "name is missing"),
        (b'{"command": "explain"}\n', ""),
        (b"x" * 1_000_000, "one line of JSON"),
    ],
)
def test_nonsense_on_the_admin_socket_is_answered_with_an_error(
    shared_node: Node, request_bytes: bytes, words: str
) -> None:
    with client(shared_node) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(request_bytes)
            sock.shutdown(socket.SHUT_WR)
        answer = _answer(sock)
    if answer:  # a megabyte is cut off, perhaps before the answer is read
        error = json.loads(answer)["error"]
        assert words in error
        assert "internal" not in error
    else:
        assert len(request_bytes) > admin.MAX_REQUEST_BYTES
    assert shared_node.status()["ready"]


def test_clients_that_say_nothing_do_not_keep_others_out(shared_node: Node) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            with contextlib.suppress(
                ConnectionError, BlockingIOError
            ):  # the places are taken, and the queue for them
                stack.enter_context(client(shared_node)).sendall(b'{"command": "sta')
    wait_until(lambda: _is_answered(shared_node), "others are served again")


def _is_answered(node: Node) -> bool:
    try:
        return bool(node.status()["ready"])
    except admin.AgentError:
        return False


_ASK_AS_NOBODY = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(10)
try:
    sock.connect(sys.argv[1])
    sock.sendall(b'{"command": "status"}\\n')
    print(sock.recv(100))
except PermissionError:
    print("denied")
except ConnectionError:
    print(b"")
"""


def test_admin_socket_is_roots_alone(shared_node: Node) -> None:
    path = shared_node.run_dir / "admin.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(shared_node.run_dir.stat().st_mode) == 0o700
    # Opened up by mistake: the peer's user is looked at, too.
    script = _ASK_AS_NOBODY
    assert run([sys.executable, "-c", script, path]).check().stdout == "denied\n"
    shared_node.run_dir.chmod(0o711)
    path.chmod(0o666)
    try:
        assert run([sys.executable, "-c", script, path]).check().stdout == "b''\n"
    finally:
        path.chmod(0o600)
        shared_node.run_dir.chmod(0o700)


# What listens on TCP, and where keys are.


def _listeners(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports on which a process listens in the host's own namespace."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(entry.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def test_only_the_metrics_port_listens_on_tcp_and_answers_get_alone(shared_node: Node) -> None:
    metrics = ("127.0.0.1", shared_node.slot.metrics_port)
    assert _listeners(shared_node.agent_pid) == {metrics}
    for method, target, status in (
        ("GET", "/metrics", 200),
        ("GET", "/ready", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/", 404),
        ("GET", "/shutdown", 404),
        ("GET", "/metrics/../admin", 404),
        ("POST", "/metrics", 405),
        ("PUT", "/metrics", 405),
        ("DELETE", "/", 405),
        ("CONNECT", "/metrics", 405),
        ("OPTIONS", "*", 405),
    ):
        with socket.create_connection(metrics, 10) as sock:
            sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = _answer(sock)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (method, target, answer[:100])
        if method == "HEAD":
            assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x00\xee" + bytes(200), b"GET /" + b"a" * 20_000, b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"],
)
def test_garbage_on_the_metrics_port_is_cut_off(shared_node: Node, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", shared_node.slot.metrics_port), 10) as sock:
        with contextlib.suppress(OSError):  # cut off already
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
        assert b"200" not in _answer(sock)[:20]
    assert shared_node.status()["ready"]


def test_slow_clients_of_the_metrics_port_are_bounded(shared_node: Node) -> None:
    address = ("127.0.0.1", shared_node.slot.metrics_port)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(address, 10)).sendall(b"GET /met")
    wait_until(lambda: _scrapes(address), "a scrape is answered")


def _scrapes(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, 10) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        return _answer(sock).startswith(b"HTTP/1.1 200")
    return False


def test_private_keys_of_workloads_are_on_no_disk_and_in_no_output(shared_node: Node) -> None:
    one, other = shared_node.workload("one"), shared_node.workload("other")
    _talks(one, other)
    authority = shared_node.state_dir / "authority"
    files = [
        path for path in shared_node.directory.rglob("*") if path.is_file() and "netns" not in path.parts
    ]
    keys = [path for path in files if b"PRIVATE KEY" in path.read_bytes()]
    assert {path.name for path in keys} == {"root.key", "intermediate.key"}
    for path in keys:
        assert path.parent.parent == authority / "issuers"
        for directory in (path.parent, path.parent.parent, authority):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    pid = shared_node.agent_pid
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = str(entry.readlink())
        if (
            target.startswith("/")
            and not target.startswith(("/proc", "/sys", "/dev"))
            and "/netns/" not in target
        ):
            assert not Path(target).is_file() or b"PRIVATE" not in Path(target).read_bytes(), target
    answers = [shared_node.ask(command) for command in ("status", "workloads", "certificates", "connections")]
    assert "PRIVATE" not in json.dumps(answers) + shared_node.log()
    environment = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"PRIVATE" not in environment
    for workload in (one, other):
        workload.close()


def test_agent_that_crashes_dumps_no_core(node: Node) -> None:
    """Its memory has the keys of every workload."""
    pid = node.agent_pid
    # A process that may not be dumped: root alone looks into it.
    assert Path(f"/proc/{pid}/stat").stat().st_uid == 0
    resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.kill(pid, 11)
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), "it has ended")
    for directory in ("/", node.state_dir, node.run_dir, Path.cwd()):
        assert not list(Path(directory).glob("core*")), directory
    node.up().check()


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


# The bridge.


@pytest.mark.parametrize("meanwhile", ["nothing", "run", "takeover"])
def test_bridge_that_somebody_removed_comes_back_with_its_links(node: Node, meanwhile: str) -> None:
    one, other = node.workload("one"), node.workload("other")
    _talks(one, other)
    if meanwhile == "takeover":
        node.kill()
    run(["ip", "link", "del", node.bridge]).check()
    if meanwhile == "takeover":
        node.up().check()
    if meanwhile == "run":
        node.workload("third")
    links = {one.host_link, other.host_link}
    ports = Path(f"/sys/class/net/{node.bridge}/brif")
    wait_until(
        lambda: ports.exists() and links <= {path.name for path in ports.iterdir()}, "the links are back"
    )
    with one.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        wait_until(lambda: _answered(probe, other), "the bridge forwards again")
    _talks(one, other)
    assert f"somebody removed bridge {node.bridge}" in node.log()


def _answered(probe: socket.socket, other: Namespace) -> bool:
    """Whether a datagram arrives, and the refusal of its port comes back."""
    probe.settimeout(0.2)
    probe.connect((other.ipv4, 9))
    try:
        probe.send(b"?")
        probe.recv(1)
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        pass
    return False
