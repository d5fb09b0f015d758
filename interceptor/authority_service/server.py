"""The authority's HTTPS service: connections in, every number of them bounded, each handed to the routes."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from interceptor.authority_service.http import HttpConnection, Waits
from interceptor.authority_service.routes import Peer, Routes, body_limit, origin_of
from interceptor.authority_service.service_context import ServiceContext
from interceptor.errors import AuthorityError, InvalidInput, PeerRejected
from interceptor.transport.sockets import (
    LISTEN_BACKLOG,
    accept_until_closed,
    family_of,
    socket_address,
    tune,
)
from interceptor.transport.streams import StreamBroken, abort_socket
from interceptor.transport.tls import RECORD_BYTES, TlsStream
from interceptor.workload import Endpoint, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from interceptor.authority_service.desk import AuthorityDesk

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much of the service its clients can take up."""

    connections: int = 4096
    connections_of_one_origin: int = 512
    handshakes: int = 128
    handshake_seconds: float = 5.0
    nodes: Waits = field(default_factory=Waits)
    # Who shows no certificate can only join: soon, or not at all.
    strangers: Waits = field(default_factory=lambda: Waits(idle_seconds=5.0, request_seconds=5.0))
    stranger_seconds: float = 20.0


class Server:
    """Serves one desk on sockets that listen."""

    def __init__(self, desk: AuthorityDesk, now: Callable[[], datetime], limits: ServerLimits) -> None:
        self._routes = Routes(desk)
        self._context = ServiceContext(desk, now)
        self._now = now
        self._limits = limits
        self._scratch = memoryview(bytearray(RECORD_BYTES))
        self._open = 0
        self._open_from: Counter[str] = Counter()
        self._handshakes = 0

    async def serve(self, listener: socket.socket) -> None:
        """Until cancelled; connections are reset then."""
        async with trio.open_nursery() as nursery:
            await accept_until_closed(listener, lambda accepted: nursery.start_soon(self._handle, accepted))

    async def _handle(self, accepted: socket.socket) -> None:
        try:
            host, port = accepted.getpeername()[:2]
            endpoint = Endpoint(parse_address(host.partition("%")[0]), port)
            with self._place(origin_of(endpoint.address)) as has_place:
                if has_place:
                    tune(accepted)
                    await self._converse(accepted, endpoint)
        except (PeerRejected, StreamBroken, InvalidInput, OSError) as error:
            log.debug("a client left or was sent away: %s", error)
        except Exception:
            # A fault of ours in one connection: it is reset, the others go on.
            log.exception("a connection was reset by an internal error")
        finally:
            abort_socket(accepted)

    async def _converse(self, accepted: socket.socket, endpoint: Endpoint) -> None:
        stream = await self._shake_hands(accepted, endpoint)
        if stream is None:
            return
        peer = Peer(endpoint, stream.verified_chain())
        is_node = bool(peer.verified_chain)
        waits = self._limits.nodes if is_node else self._limits.strangers
        connection = HttpConnection(stream, self._scratch, waits, body_limit, self._now)
        with trio.CancelScope() as scope:
            if not is_node:
                scope.deadline = trio.current_time() + self._limits.stranger_seconds
            await connection.serve(
                partial(self._routes.answer, peer), partial(self._routes.refuse_unread, peer)
            )
        stream.close()

    async def _shake_hands(self, accepted: socket.socket, endpoint: Endpoint) -> TlsStream | None:
        if self._handshakes >= self._limits.handshakes:
            return None
        self._handshakes += 1
        try:
            stream = TlsStream(self._context.current(), accepted, server_side=True)
            with trio.move_on_after(self._limits.handshake_seconds) as scope:
                await stream.handshake()
        except PeerRejected as error:
            # No answer can reach such a client: the audit is where somebody may see it.
            self._routes.sent_away(endpoint, error)
            raise
        else:
            return None if scope.cancelled_caught else stream
        finally:
            self._handshakes -= 1

    @contextmanager
    def _place(self, origin: str) -> Iterator[bool]:
        """Whether there is a place for one more connection; it is held meanwhile."""
        has_place = (
            self._open < self._limits.connections
            and self._open_from[origin] < self._limits.connections_of_one_origin
        )
        if not has_place:
            yield False
            return
        self._open += 1
        self._open_from[origin] += 1
        try:
            yield True
        finally:
            self._open -= 1
            self._open_from[origin] -= 1
            if not self._open_from[origin]:
                del self._open_from[origin]


def listen(endpoint: Endpoint) -> socket.socket:
    """A socket that listens there; AuthorityError when it cannot."""
    listener = socket.socket(family_of(endpoint.address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(socket_address(endpoint))
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        raise AuthorityError(
            f"the authority cannot listen on {endpoint} ({error.strerror}): give it a free port, and an address that "
            "this machine has"
        ) from error
    return listener
