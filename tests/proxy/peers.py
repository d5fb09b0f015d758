"""The other end of a tunnel, played by the test: a TLS peer that may do what ours never would."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from interceptor.transport.tls import RECORD_BYTES, TlsStream
from tests.proxy.mesh import DEADLINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from OpenSSL import SSL

    from tests.proxy.mesh import Side

REQUEST = b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n"


def request(target: object) -> bytes:
    """A well-formed tunnel request."""
    text = str(target).encode()
    return REQUEST % (text, text)


@contextmanager
def tunnel_client(context: SSL.Context, side: Side) -> Iterator[TlsStream]:
    """A TLS client connected to a workload's tunnel port, before its handshake."""
    with socket.create_connection(side.tunnel.getsockname()[:2]) as sock:
        sock.setblocking(False)
        yield TlsStream(context, sock, server_side=False)


async def receive_until_end(stream: TlsStream) -> bytes:
    """Everything up to close_notify; StreamBroken upon anything else."""
    received = bytearray()
    buffer = memoryview(bytearray(RECORD_BYTES))
    with trio.fail_after(DEADLINE_SECONDS):
        while count := await stream.receive_into(buffer):
            received += buffer[:count]
    return bytes(received)


async def receive_some(stream: TlsStream) -> bytes:
    buffer = memoryview(bytearray(RECORD_BYTES))
    with trio.fail_after(DEADLINE_SECONDS):
        return bytes(buffer[: await stream.receive_into(buffer)])


async def send(stream: TlsStream, data: bytes) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        await stream.send_all(memoryview(data))


async def serve_tunnels(
    side: Side, context: SSL.Context, behaviour: Callable[[TlsStream], Awaitable[None]]
) -> None:
    """Play a workload's inbound proxy for one connection: `behaviour` begins before the handshake."""
    await trio.lowlevel.wait_readable(side.tunnel)
    accepted, _ = side.tunnel.accept()
    with accepted:
        accepted.setblocking(False)
        await behaviour(TlsStream(context, accepted, server_side=True))
