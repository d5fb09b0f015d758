"""TCP from inside namespaces, done by the test itself: pairs of connected sockets, and what one does with them."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.namespace import Namespace

FAMILIES = (socket.AF_INET, socket.AF_INET6)
_libc = ctypes.CDLL(None, use_errno=True)


def family_id(family: int) -> str:
    """How a test's parameter is shown: ipv4 or ipv6."""
    return "ipv4" if family == socket.AF_INET else "ipv6"


@contextlib.contextmanager
def connected(
    client: Namespace, server: Namespace, family: int = socket.AF_INET, *, port: int = 0
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from one namespace to another's address: the client's socket, and the one that accept(2) gave."""
    with server.listen(family, port) as listener, client.connect(listener.getsockname()[:2]) as near:
        far, _ = listener.accept()
        with far:
            far.settimeout(10)
            yield near, far


def receive_all(sock: socket.socket) -> bytes:
    """Everything until the other side ends."""
    received = bytearray()
    while data := sock.recv(1 << 18):
        received += data
    return bytes(received)


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    """`count` bytes; AssertionError when the other side ends before."""
    received = bytearray()
    while len(received) < count:
        data = sock.recv(count - len(received))
        assert data, f"the connection ended after {len(received)} of {count} bytes"
        received += data
    return bytes(received)


@contextlib.contextmanager
def serving(
    listener: socket.socket, answer: Callable[[socket.socket], None]
) -> Iterator[list[tuple[str, int]]]:
    """Accept in a thread and call `answer` on each connection, one after the other; yields the peers seen.

    At the end the listener is closed; an exception of `answer` is raised then.
    """
    peers: list[tuple[str, int]] = []
    failures: list[BaseException] = []
    listener.settimeout(None)

    def serve() -> None:
        try:
            while True:
                try:
                    accepted, peer = listener.accept()
                except OSError:
                    return  # shut down, below
                peers.append(peer[:2])
                with accepted:
                    accepted.settimeout(20)
                    answer(accepted)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serve, name="server")
    thread.start()
    try:
        yield peers
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept(2), which close(2) does not
        thread.join(30)
        listener.close()
    if failures:
        raise failures[0]


def echo(sock: socket.socket) -> None:
    """Send back what comes, until it ends."""
    while data := sock.recv(1 << 18):
        sock.sendall(data)


@contextlib.contextmanager
def sending(sock: socket.socket, data: bytes, *, then: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Send `data` in a thread, and call `then`, while the body reads; raises what the sending raised."""
    failures: list[BaseException] = []

    def send() -> None:
        try:
            sock.sendall(data)
            then()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=send, name="sender")
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
    if failures:
        raise failures[0]


def disconnect(sock: socket.socket) -> None:
    """Dissolve a socket's association, so that it can be connected anew (connect(2) with AF_UNSPEC)."""
    unspecified = bytes(28)
    if _libc.connect(sock.fileno(), unspecified, len(unspecified)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, "connect(AF_UNSPEC)")


def endpoint(sock: socket.socket) -> str:
    """A socket's own end as records write it: "10.0.0.1:80", "[fd00::1]:80"."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
