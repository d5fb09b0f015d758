"""An agent that hands its node over to another one: no connection is lost, whatever becomes of either of them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.harness.node import running_node
from tests.harness.process import has_let_go, wait_until
from tests.harness.tcp import FAMILIES, echo

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        stack.enter_context(_serving(self.web.listen(socket.AF_INET, DOWNLOAD_PORT), _send_for_ever))
        self.pairs = ((self.client, self.web), (self.web, self.named), (self.named, self.web))

    def wire(self) -> contextlib.AbstractContextManager[object]:
        return self.node.wire(self.web, self.client, self.named, marker=MARKER)


@contextlib.contextmanager
def _serving(listener: socket.socket, answer: object) -> Iterator[None]:
    """Answer each connection in a thread of its own."""
    listener.settimeout(None)
    with concurrent.futures.ThreadPoolExecutor(64) as threads:

        def serve(accepted: socket.socket) -> None:
            with contextlib.suppress(ConnectionError), accepted:
                accepted.settimeout(30)
                answer(accepted)  # type: ignore[operator]

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


def _send_for_ever(sock: socket.socket) -> None:
    """Numbered pieces until the client says that it has enough; then the digest of all."""
    digest = hashlib.sha256()
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.recv(1)
    number = 0
    while True:
        piece = number.to_bytes(8, "big") + PIECE
        sock.setblocking(True)
        sock.sendall(len(piece).to_bytes(4, "big") + piece)
        digest.update(piece)
        number += 1
        sock.settimeout(PAUSE_SECONDS)
        with contextlib.suppress(TimeoutError):
            if not sock.recv(1) or True:
                break
    sock.settimeout(10)
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


@pytest.fixture(scope="module")
def mesh(_swept: None) -> Iterator[Mesh]:
    with running_node(limits={"drainTime": "20s"}) as node, contextlib.ExitStack() as stack:
        yield Mesh(node, stack)


def take_over(node: Node) -> int:
    """Start another agent beside the one that runs; the pid of the one that has handed over."""
    before = node.agent_pid
    node.cli("up", "--take-over").check()
    node.slot.journal.add(node.agent_pid)
    return before


def test_agents_that_follow_each_other_lose_no_connection(mesh: Mesh) -> None:
    node = mesh.node
    with mesh.wire(), Connecting(mesh) as connecting:
        download = Download(mesh.client, mesh.web)
        wait_until(lambda: download.pieces, "the download has begun")
        first = take_over(node)
        connecting.wait_for_more()
        assert download.goes_on
        status = node.status()
        assert [each["pid"] for each in status["draining"]] == [first]
        second = take_over(node)
        third = take_over(node)
        connecting.wait_for_more()
        assert {each["pid"] for each in node.status()["draining"]} >= {first}
        assert download.goes_on
        assert download.finish()
    assert connecting.failures == []
    print(connecting.made)
    for pid in (first, second, third):
        wait_until(lambda pid=pid: has_let_go(pid), f"agent {pid} has ended, drained")  # type: ignore[misc]
    assert node.status()["draining"] == []
    assert os.getpid()
