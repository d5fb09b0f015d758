"""TCP sockets of any purpose: accepted without end, and tuned."""

from __future__ import annotations

import errno
import logging
import socket
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.workload import Endpoint, IPAddress

log = logging.getLogger(__name__)

LISTEN_BACKLOG = 4096  # the kernel caps it at net.core.somaxconn
# Accepted in one go before other tasks run: bounds how long a flood can hold the loop.
ACCEPT_BATCH = 32
# When descriptors or memory run out: leave the rest in the backlog for a moment.
OVERLOAD_PAUSE_SECONDS = 0.1
_OVERLOAD = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

KEEPALIVE_IDLE_SECONDS = KEEPALIVE_INTERVAL_SECONDS = 180  # as ztunnel
KEEPALIVE_PROBES = 9


async def accept_until_closed(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """Hand each accepted, non-blocking socket to `serve`, which owns it from then on, until the listener is closed."""
    # It may have been closed between our being woken and our running.
    while listener.fileno() >= 0:
        try:
            await trio.lowlevel.wait_readable(listener)
        except trio.ClosedResourceError:
            return
        for _ in range(ACCEPT_BATCH):
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                # Others are the accepted connection's own failures (accept(2)).
                if error.errno in _OVERLOAD:
                    log.warning("cannot accept: %s; waiting connections stay in the backlog", error.strerror)
                    await trio.sleep(OVERLOAD_PAUSE_SECONDS)
                break
            accepted.setblocking(False)
            serve(accepted)


def family_of(address: IPAddress) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6


def socket_address(endpoint: Endpoint) -> tuple[str, int]:
    """An endpoint as the socket module takes it."""
    return (str(endpoint.address), endpoint.port)


def tune(sock: socket.socket) -> None:
    """No delay for small messages, urgent data in its place, and idle connections notice a dead peer.

    A tunnel has no word for "urgent": the byte arrives as one among the others
    (RFC 6093 section 3.2), where it would be lost otherwise.
    No TCP_USER_TIMEOUT: it also ends connections whose receiver is merely slow
    (a closed window counts), which TCP by itself would not.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
