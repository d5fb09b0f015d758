"""The listeners of one enrolled workload, and the tasks of its connections, under one nursery."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from interceptor.proxy import inbound, inbound_plaintext, outbound
from interceptor.proxy.refusal import Refusal
from interceptor.transport.sockets import accept_until_closed
from interceptor.transport.streams import abort_socket

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Sequence

    from interceptor.policy.verdict import Reason
    from interceptor.proxy.context import WorkloadContext

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    Handler = Callable[[socket.socket, WorkloadContext], Awaitable[None]]


class WorkloadProxy:
    """Serves one workload until `run` is cancelled; the sockets are handed in, listening."""

    def __init__(
        self,
        context: WorkloadContext,
        *,
        outbound_listeners: Sequence[socket.socket],
        plaintext_listeners: Sequence[socket.socket],
        tunnel_listeners: Sequence[socket.socket],
    ) -> None:
        self.context = context
        self._listeners: list[tuple[socket.socket, Handler]] = [
            *((listener, outbound.handle) for listener in outbound_listeners),
            *((listener, inbound_plaintext.handle) for listener in plaintext_listeners),
            *((listener, inbound.handle) for listener in tunnel_listeners),
        ]
        self._scope = trio.CancelScope()

    @property
    def ports(self) -> list[int]:
        """Where it listens at this moment."""
        open_ones = (listener for listener, _ in self._listeners if listener.fileno() != -1)
        return sorted({listener.getsockname()[1] for listener in open_ones})

    @property
    def listeners(self) -> tuple[socket.socket, ...]:
        """The sockets that are listened on."""
        return tuple(listener for listener, _ in self._listeners)

    async def run(self) -> None:
        """Accept and serve; closes the listeners and resets what is left when it ends."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for listener, handler in self._listeners:
                        nursery.start_soon(self._accept, listener, handler, nursery)
        finally:
            for listener, _ in self._listeners:
                listener.close()

    def stop(self, reason: Reason) -> None:
        """Take no more connections and reset those that are open, for one reason."""
        self.context.live.close_all(reason)
        self.stop_accepting()
        self._scope.cancel()

    def stop_accepting(self) -> None:
        """Take no more connections; those that are open go on."""
        # Closed here and not when the tasks have ended: the ports are free when this returns.
        for listener in self.listeners:
            if listener.fileno() >= 0:
                trio.lowlevel.notify_closing(listener)
                listener.close()

    async def _accept(self, listener: socket.socket, handler: Handler, nursery: trio.Nursery) -> None:
        await accept_until_closed(
            listener, lambda accepted: nursery.start_soon(self._serve, accepted, handler)
        )

    async def _serve(self, accepted: socket.socket, handler: Handler) -> None:
        try:
            await handler(accepted, self.context)
        except Refusal:
            pass  # there was no place for it; its record says so
        except Exception:
            # A fault of ours in one connection: it is reset, the others go on.
            log.exception("a connection of %s was reset by an internal error", self.context.workload.key)
        finally:
            abort_socket(accepted)
