"""Network namespaces that are outside of the mesh: let them go, with what they began before that was known."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio

from interceptor.agent.workload_context import original_destination
from interceptor.errors import KernelError
from interceptor.kernel.abi import OUTBOUND_PORT, ListenerSlot
from interceptor.kernel.netns import NetworkNamespace
from interceptor.kernel.socket_diag import count_connecting
from interceptor.proxy import pass_through
from interceptor.proxy.pass_through import Outlet
from interceptor.transport.sockets import LISTEN_BACKLOG, accept_until_closed
from interceptor.transport.streams import abort_socket

if TYPE_CHECKING:
    from interceptor.kernel.hold import Hold

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
# A process may be on its way from connect(2) to the SYN when its namespace is admitted.
QUIET_SECONDS = 0.5
# Longer than TCP tries; a program in there could keep us waiting for as long as it likes.
SERVED_SECONDS_AT_MOST = 300.0
MAX_CARRIED = 1024  # at once, of one namespace
_LOOPBACK = {
    ListenerSlot.PLAINTEXT_IPV4: (socket.AF_INET, "127.0.0.1"),
    ListenerSlot.PLAINTEXT_IPV6: (socket.AF_INET6, "::1"),
}


class Outside:
    """Admits namespaces as outside, and serves each until nothing is held in it any more."""

    def __init__(self, hold: Hold, connect_timeout: float) -> None:
        self._hold = hold
        self._connect_timeout = connect_timeout
        self._serving: set[int] = set()
        self.carried = 0  # connections that are carried on now

    def admit(self, netns: NetworkNamespace, cookie: int, nursery: trio.Nursery) -> None:
        """A namespace is outside from now on: new connections pass untouched, what is held is carried on.

        `netns` may be closed afterwards.  Raises KernelError, or EnrolmentError when no more can be admitted; the
        namespace goes on waiting then.
        """
        if not self._hold.is_guarding() or cookie in self._serving:
            self._hold.admit_outside(cookie)
            return
        with ExitStack() as undo:
            ours = undo.enter_context(NetworkNamespace(os.dup(netns.fd), netns.description))
            listeners = _open_listeners(ours, undo)
            # In this order: what is let go finds us at once.
            undo.callback(self._hold.stop_steering, cookie)
            self._hold.steer_held(ours, cookie, listeners)
            self._hold.admit_outside(cookie)
            self._serving.add(cookie)
            undo.callback(self._serving.discard, cookie)
            nursery.start_soon(self._serve, ours, list(listeners.values()), undo.pop_all())

    async def _serve(
        self, netns: NetworkNamespace, listeners: list[socket.socket], cleanup: ExitStack
    ) -> None:
        outlet = Outlet(
            lambda family: netns.open_socket(family, socket.SOCK_STREAM),
            original_destination,
            self._connect_timeout,
        )
        places = trio.CapacityLimiter(MAX_CARRIED)
        with cleanup:
            async with trio.open_nursery() as nursery:

                def serve(accepted: socket.socket) -> None:
                    nursery.start_soon(self._count_and_carry, accepted, outlet, places)

                for listener in listeners:
                    nursery.start_soon(accept_until_closed, listener, serve)
                await _wait_until_nothing_is_held(netns)
                for listener in listeners:
                    trio.lowlevel.notify_closing(listener)
                    listener.close()

    async def _count_and_carry(
        self, accepted: socket.socket, outlet: Outlet, places: trio.CapacityLimiter
    ) -> None:
        self.carried += 1
        try:
            await _carry(accepted, outlet, places)
        finally:
            self.carried -= 1


async def _carry(accepted: socket.socket, outlet: Outlet, places: trio.CapacityLimiter) -> None:
    try:
        places.acquire_nowait()
    except trio.WouldBlock:
        log.warning("more than %s held connections of one namespace outside: one was reset", MAX_CARRIED)
        abort_socket(accepted)
        return
    try:
        await pass_through.handle(accepted, outlet)
    except Exception:
        # A fault of ours in one connection: it is reset, the others go on.
        log.exception("a connection that was held was reset by an internal error")
    finally:
        places.release()


async def _wait_until_nothing_is_held(netns: NetworkNamespace) -> None:
    quiet = 0.0
    with trio.move_on_after(SERVED_SECONDS_AT_MOST):
        while quiet < QUIET_SECONDS:
            await trio.sleep(POLL_SECONDS)
            try:
                held = count_connecting(netns, OUTBOUND_PORT)
            except KernelError as error:
                log.warning("what is held cannot be counted, and is given up: %s", error)
                return
            quiet = 0.0 if held else quiet + POLL_SECONDS


def _open_listeners(netns: NetworkNamespace, undo: ExitStack) -> dict[ListenerSlot, socket.socket]:
    """Listen on loopback, on ports that the kernel picks: the namespace's programs may have ours."""
    slots = (
        _LOOPBACK
        if netns.has_ipv6()
        else {ListenerSlot.PLAINTEXT_IPV4: _LOOPBACK[ListenerSlot.PLAINTEXT_IPV4]}
    )
    listeners = {}
    for slot, (family, address) in slots.items():
        listener = undo.enter_context(netns.open_socket(family, socket.SOCK_STREAM))
        try:
            listener.bind((address, 0))
            listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            raise KernelError(f"cannot listen inside {netns.description}: {error.strerror}") from error
        listeners[slot] = listener
    return listeners
