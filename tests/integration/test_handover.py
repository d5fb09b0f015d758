"""An agent that hands its node over to another one: no connection is lost, whatever becomes of either of them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import platform
import random
import select
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.agent.predecessor import meet
from interceptor.config import parse_config
from interceptor.errors import AgentError
from interceptor.kernel.bpf_program import load_programs
from interceptor.kernel.capture import Capture
from interceptor.kernel.headers import find_headers
from interceptor.kernel.mounts import find_cgroup2
from interceptor.kernel.pinned import borrowed
from tests.harness.node import running_node
from tests.harness.process import has_let_go, wait_until
from tests.harness.tcp import FAMILIES, echo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interceptor.agent.predecessor import Inheritance
    from tests.harness.namespace import Namespace
    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf, pytest.mark.timeout(120)]

MARKER = b"marker of a node that changes hands: 77c1e0"
PORT, DOWNLOAD_PORT = 7070, 7071
PIECE = MARKER * 1500  # 64 KB
PAUSE_SECONDS = 0.01  # between two pieces: the download shall last longer than what is tested


class Mesh:
    """Two workloads that serve, and two that ask, all the time."""

    def __init__(self, node: Node, stack: contextlib.ExitStack) -> None:
        self.node = node
        self.web = node.workload("web")
        self.client = node.workload("client")
        self.named = node.enrolled_namespace("by-name")
        for server in (self.web, self.named):
            for family in FAMILIES:
                stack.enter_context(_serving(server.listen(family, PORT), echo))
        stack.enter_context(_serving(self.web.listen(socket.AF_INET, DOWNLOAD_PORT), _send_until_told))
        self.pairs = ((self.client, self.web), (self.web, self.named), (self.named, self.web))

    def wire(self) -> contextlib.AbstractContextManager[object]:
        return self.node.wire(self.web, self.client, self.named, marker=MARKER)


@contextlib.contextmanager
def _serving(listener: socket.socket, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """Answer each connection in a thread of its own."""
    listener.settimeout(None)
    with concurrent.futures.ThreadPoolExecutor(64) as threads:

        def serve(accepted: socket.socket) -> None:
            with contextlib.suppress(ConnectionError), accepted:
                accepted.settimeout(30)
                answer(accepted)

        def accept() -> None:
            with contextlib.suppress(OSError):  # shut down, below
                while True:
                    threads.submit(serve, listener.accept()[0])

        threads.submit(accept)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def _send_until_told(sock: socket.socket) -> None:
    """Numbered pieces until the client says that it has enough; then the digest of all."""
    digest, number = hashlib.sha256(), 0
    while not select.select([sock], [], [], PAUSE_SECONDS)[0]:
        piece = number.to_bytes(8, "big") + PIECE
        sock.sendall(len(piece).to_bytes(4, "big") + piece)
        digest.update(piece)
        number += 1
    sock.sendall(bytes(4) + digest.digest())


class Download:
    """A long download through the mesh, checked to the byte."""

    def __init__(self, client: Namespace, server: Namespace) -> None:
        self._sock = client.connect((server.ipv4, DOWNLOAD_PORT))
        self._file = self._sock.makefile("rb")
        self._digest = hashlib.sha256()
        self.pieces = 0
        self._result: bytes | None = None
        self._thread = threading.Thread(target=self._read, name="download")
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while size := int.from_bytes(self._file.read(4), "big"):
                self._digest.update(self._file.read(size))
                self.pieces += 1
            self._result = self._file.read(32)

    def finish(self) -> bool:
        """Ask for no more; whether all came that was sent."""
        with contextlib.suppress(OSError):
            self._sock.sendall(b"!")
        self._thread.join(20)
        self._sock.close()
        return self._result == self._digest.digest()

    @property
    def goes_on(self) -> bool:
        """Whether another piece comes now."""
        before = self.pieces
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self.pieces > before, "another piece", 5)
        return self.pieces > before


class Connecting:
    """New connections all the time, each with an answer that is awaited: how many, and which failed."""

    def __init__(self, mesh: Mesh) -> None:
        self._stop = threading.Event()
        self.made = 0
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._connect, args=(source, destination, family))
            for source, destination in mesh.pairs
            for family in FAMILIES
        ]

    def __enter__(self) -> Connecting:
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.made > len(self._threads), "connections are made")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def wait_for_more(self) -> None:
        before = self.made
        wait_until(lambda: self.made > before + 20, f"connections are made: {self.failures[-3:]}")

    def _connect(self, source: Namespace, destination: Namespace, family: int) -> None:
        while not self._stop.is_set():
            try:
                with source.connect((destination.address(family), PORT)) as sock:
                    sock.sendall(MARKER)
                    answer = sock.recv(4096)
                    if answer != MARKER:
                        self.failures.append(f"{source} to {destination}: {answer!r}")
            except OSError as error:
                self.failures.append(f"{source} to {destination}: {error}")
            self.made += 1
            time.sleep(0.005)


@pytest.fixture(scope="module")
def mesh(_swept: None) -> Iterator[Mesh]:
    with running_node(limits={"drainTime": "3m"}) as node, contextlib.ExitStack() as stack:
        yield Mesh(node, stack)


def take_over(node: Node) -> int:
    """Start another agent beside the one that runs; the pid of the one that has handed over."""
    before = node.agent_pid
    node.cli("up", "--take-over").check()
    node.slot.journal.add(node.agent_pid)
    return before


def start_successor(node: Node) -> subprocess.Popen[bytes]:
    """The same, without waiting for anything."""
    with node.log_path.open("ab") as log:
        started = subprocess.Popen(
            [*node.command(), "agent", "--take-over"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    node.slot.journal.add(started.pid)
    return started


def assert_served(mesh: Mesh) -> None:
    """Everybody reaches everybody, encrypted."""
    with mesh.wire():
        for source, destination in mesh.pairs:
            for family in FAMILIES:
                assert _exchange(source, destination, family)


def _exchange(source: Namespace, destination: Namespace, family: int = socket.AF_INET) -> bool:
    with source.connect((destination.address(family), PORT)) as sock:
        sock.sendall(MARKER)
        return sock.recv(4096) == MARKER


class Scripted:
    """A successor that does what a test says, up to where it is killed; the real protocol, step by step."""

    def __init__(self, node: Node) -> None:
        self.config = parse_config(
            node.config_path.read_text(), "config.yaml", node=node.name, environment={}
        )
        self.predecessor = trio.run(meet, self.config)
        self.inherited: Inheritance | None = None

    def ask(self) -> None:
        trio.run(self.predecessor.wire.send, {"want": "hand over"})

    def take(self) -> None:
        self.inherited = trio.run(self.predecessor.hand_over, self.config)

    def say_that_it_serves(self) -> None:
        trio.run(self.predecessor.wire.send, {"now": "serving"})

    def put_own_programs_in_force(self) -> None:
        """Of which no map says that anybody is enrolled: what nobody takes back is plaintext then."""
        bpf_dir = self.config.paths.bpf_dir
        headers = find_headers(None, platform.release(), self.config.paths.run_dir)
        with borrowed(self.predecessor.lent, bpf_dir):
            programs = load_programs(headers.path, bpf_dir, are_maps_lent=True)
        capture = Capture(programs, bpf_dir)
        capture.activate(self.config.paths.cgroup or find_cgroup2())
        capture.close()

    def die(self) -> None:
        """Let go of all, as the kernel does with a process that was killed."""
        trio.run(self._let_go)

    async def _let_go(self) -> None:
        self.predecessor.release()
        if self.inherited is not None:
            self.inherited.close_listeners()
            locks, doors = self.inherited.locks, self.inherited.doors
            assert locks is not None
            assert doors is not None
            locks.release()
            for sock in (doors.admin.socket, doors.metrics.socket, doors.succession):
                sock.close()


# All goes well.


def test_agents_that_follow_each_other_lose_no_connection(mesh: Mesh) -> None:
    node = mesh.node
    with mesh.wire(), Connecting(mesh) as connecting:
        download = Download(mesh.client, mesh.web)
        wait_until(lambda: download.pieces, "the download has begun")
        handed_over = [take_over(node)]
        connecting.wait_for_more()
        assert download.goes_on
        assert [each["pid"] for each in node.status()["draining"]] == handed_over
        assert f"pid {handed_over[0]} has handed over and relays" in node.cli("status").check().stdout
        handed_over += [take_over(node), take_over(node)]
        connecting.wait_for_more()
        assert handed_over[0] in {each["pid"] for each in node.status()["draining"]}
        assert download.goes_on
        assert download.finish()
    assert connecting.failures == []
    for pid in handed_over:
        wait_until(lambda pid=pid: has_let_go(pid), f"agent {pid} has ended, drained")  # type: ignore[misc]
    wait_until(lambda: node.status()["draining"] == [], "nobody drains")
    assert {workload["state"] for workload in node.workloads()} == {"ready"}


def test_workload_that_is_withdrawn_is_reset_by_the_agent_that_drains_too(mesh: Mesh) -> None:
    node = mesh.node
    plain = node.enrolled_namespace("for-a-while")
    with (
        _serving(plain.listen(socket.AF_INET, PORT), echo),
        mesh.client.connect((plain.ipv4, PORT)) as gone,
        mesh.client.connect((mesh.web.ipv4, PORT)) as kept,
    ):
        for sock in (gone, kept):
            sock.sendall(b"before")
            assert sock.recv(6) == b"before"
        drained = take_over(node)
        node.ask("withdraw", name="default/for-a-while")
        with pytest.raises(ConnectionResetError):
            gone.recv(1)
        kept.sendall(b"after")
        assert kept.recv(5) == b"after"
        assert not has_let_go(drained)
    wait_until(lambda: has_let_go(drained), "it has ended, drained")


def test_what_is_open_longer_than_the_drain_time_is_reset(mesh: Mesh) -> None:
    node = mesh.node
    usual = node.config
    node.write_config({**usual, "limits": {**usual["limits"], "drainTime": "1s"}})  # type: ignore[dict-item]
    take_over(node)
    node.write_config(usual)
    with mesh.client.connect((mesh.web.ipv4, PORT)) as sock:
        sock.sendall(b"before")
        assert sock.recv(6) == b"before"
        drained = take_over(node)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        wait_until(lambda: has_let_go(drained), "it has ended")
    assert_served(mesh)


# Who dies, and when.


@pytest.mark.parametrize("steps", [(), ("ask",), ("take",), ("take", "put_own_programs_in_force")])
def test_successor_that_dies_before_it_serves_leaves_the_node_to_its_agent(
    mesh: Mesh, steps: tuple[str, ...]
) -> None:
    node = mesh.node
    pid = node.agent_pid
    with Connecting(mesh) as connecting:
        successor = Scripted(node)
        for step in steps:
            getattr(successor, step)()
        successor.die()
        wait_until(
            lambda: "a successor gave up" in node.log().rpartition("prepares to take")[2], "it is noticed"
        )
        connecting.wait_for_more()
    if "put_own_programs_in_force" not in steps:  # those of a real one know who is enrolled
        assert connecting.failures == []
    assert node.agent_pid == pid
    assert_served(mesh)
    assert {workload["state"] for workload in node.workloads()} == {"ready"}


def test_successor_that_dies_as_soon_as_it_serves_leaves_the_node_cut_off_until_the_next_start(
    mesh: Mesh,
) -> None:
    node = mesh.node
    pid = node.agent_pid
    successor = Scripted(node)
    successor.take()
    successor.say_that_it_serves()
    wait_until(
        lambda: "serves this node now" in node.log().rpartition("prepares to take")[2], "it is believed"
    )
    successor.die()
    wait_until(lambda: has_let_go(pid), "it has ended, drained")
    with mesh.node.wire(mesh.web, mesh.client, mesh.named, marker=MARKER, expect="anything") as wire:
        for source, destination in mesh.pairs:
            with pytest.raises(ConnectionRefusedError):
                _exchange(source, destination)
    assert wire.tcp_payload_bytes == 0
    node.up().check()
    assert_served(mesh)


def test_agent_that_dies_while_its_successor_prepares_is_succeeded_all_the_same(mesh: Mesh) -> None:
    node = mesh.node
    with mesh.wire():
        pid, successor = node.agent_pid, start_successor(node)
        wait_until_logged(node, f"agent {successor.pid} prepares to take")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: _pid_of(node) == successor.pid, "the successor serves", 40)
        wait_until(lambda: node.status()["ready"], "it is ready")
        assert_served(mesh)
    successor.returncode = 0  # it is the node's agent now, and ended as that


def test_either_of_them_killed_at_any_moment_leaves_nothing_in_plaintext_and_the_next_start_heals(
    mesh: Mesh,
) -> None:
    node = mesh.node
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    for victim in ("successor", "agent"):
        with mesh.node.wire(mesh.web, mesh.client, mesh.named, marker=MARKER), Connecting(mesh):
            agent, successor = node.agent_pid, start_successor(node)
            wait_until_logged(node, f"preparing to take over from agent {agent}")
            time.sleep(chance.uniform(0, 0.3))  # at an unknown step, that is the point
            os.kill(agent if victim == "agent" else successor.pid, signal.SIGKILL)
            if victim == "successor":
                successor.wait()
            if wait_until_somebody_serves(node) is None:
                node.up().check()
        assert_served(mesh), f"seed {seed}, {victim} killed"
        successor.returncode = 0


def wait_until_logged(node: Node, text: str) -> None:
    wait_until(lambda: text in node.log(), f"the log says {text!r}", 40)


def wait_until_somebody_serves(node: Node) -> int | None:
    """The pid of the agent that is left; None when there is none."""
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: _pid_of(node) is not None, "somebody answers", 15, poll=0.1)
        wait_until(lambda: node.status()["ready"], "it is ready", 15)
    return _pid_of(node)


def _pid_of(node: Node) -> int | None:
    try:
        return node.agent_pid
    except AgentError:
        return None


# Who is refused.


def test_second_successor_is_refused_while_one_prepares(mesh: Mesh) -> None:
    node = mesh.node
    first = Scripted(node)
    try:
        refused = node.cli("agent", "--take-over")
    finally:
        first.die()
    assert refused.status == 1
    assert f"agent {os.getpid()} is about to take over from agent {node.agent_pid} already" in refused.stderr
    assert_served(mesh)


def test_agent_that_hangs_is_not_taken_over_from(mesh: Mesh) -> None:
    """It may wake up at any moment, and would go on as if nothing had happened."""
    node = mesh.node
    pid = node.agent_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        refused = node.cli("agent", "--take-over")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert refused.status == 1
    assert f"agent {pid} has this node and does not answer" in refused.stderr
    assert f"kill -9 {pid}" in refused.stderr
    assert_served(mesh)


def test_agent_that_is_told_to_end_waits_for_the_successor_that_prepares(mesh: Mesh) -> None:
    node = mesh.node
    pid = node.agent_pid
    successor = Scripted(node)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: "going on until agent" in node.log(), "it waits")
    assert_served(mesh)
    successor.die()
    wait_until(lambda: has_let_go(pid), "nobody came")
    node.up().check()
    assert_served(mesh)


# The end.


def test_down_ends_the_agents_that_drain_too(mesh: Mesh) -> None:
    node = mesh.node
    other = node.enrolled_namespace("other")
    with (
        _serving(other.listen(socket.AF_INET, PORT), echo),
        mesh.named.connect((other.ipv4, PORT)) as sock,
    ):
        sock.sendall(b"before")
        assert sock.recv(6) == b"before"
        drained = take_over(node)
        node.down().check()
        wait_until(lambda: has_let_go(drained), "it has ended")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    node.close_namespaces()
    node.up().check()
