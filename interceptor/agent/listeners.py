"""The proxy's listening sockets inside a workload's network namespace."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel.abi import INBOUND_PLAINTEXT_PORT, INBOUND_TUNNEL_PORT, OUTBOUND_PORT, ListenerSlot
from interceptor.kernel.netns import cookie_of
from interceptor.transport.sockets import LISTEN_BACKLOG

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from contextlib import ExitStack

    from interceptor.kernel.netns import NetworkNamespace

_PORTS = (OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, INBOUND_TUNNEL_PORT)
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def open_listeners(netns: NetworkNamespace, undo: ExitStack) -> dict[int, list[socket.socket]]:
    """Listen on the three ports, for each family that the namespace has; by port.

    They are closed by `undo`.  EnrolmentError when a program in there has one of the ports.
    """
    families = [socket.AF_INET, socket.AF_INET6] if netns.has_ipv6() else [socket.AF_INET]
    listeners: dict[int, list[socket.socket]] = {}
    for port in _PORTS:
        for family in families:
            listener = netns.open_socket(family, socket.SOCK_STREAM)
            undo.callback(listener.close)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # Loopback only: what arrives over a link is steered here, not routed.
                listener.bind((_LOOPBACK[family], port))
                listener.listen(LISTEN_BACKLOG)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise EnrolmentError(
                        f"port {port} is taken inside {netns.description}, the proxy needs it: "
                        "stop the program that listens there, or let it use another port"
                    ) from error
                raise KernelError(
                    f"cannot listen on port {port} inside {netns.description}: {error.strerror}"
                ) from error
            listeners.setdefault(port, []).append(listener)
    return listeners


def adopt_listeners(
    sockets: Collection[socket.socket], netns: NetworkNamespace, undo: ExitStack
) -> dict[int, list[socket.socket]]:
    """Those that another agent listened on there, by port; none, and they are closed, unless they are all that is needed.

    What waits in them to be accepted is served then, as if nothing had happened.
    """
    families = {socket.AF_INET, socket.AF_INET6} if netns.has_ipv6() else {socket.AF_INET}
    needed = {(port, family) for port in _PORTS for family in families}
    listeners = by_port(sockets)
    found = {(port, sock.family) for port, found in listeners.items() for sock in found}
    if found != needed or len(sockets) != len(needed) or not all(_is_in(each, netns) for each in sockets):
        for sock in sockets:
            sock.close()
        return {}
    for sock in sockets:
        sock.setblocking(False)
        undo.callback(sock.close)
    return listeners


def by_port(sockets: Iterable[socket.socket]) -> dict[int, list[socket.socket]]:
    """Listening sockets by the port on which they listen."""
    found: dict[int, list[socket.socket]] = {}
    for sock in sockets:
        found.setdefault(sock.getsockname()[1], []).append(sock)
    return found


def _is_in(sock: socket.socket, netns: NetworkNamespace) -> bool:
    return cookie_of(sock) == netns.cookie() and bool(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )


def steering_slots(listeners: dict[int, list[socket.socket]]) -> dict[ListenerSlot, socket.socket]:
    """The inbound listeners by where the steering program looks for them."""
    slots = {}
    for port, ipv4, ipv6 in (
        (INBOUND_PLAINTEXT_PORT, ListenerSlot.PLAINTEXT_IPV4, ListenerSlot.PLAINTEXT_IPV6),
        (INBOUND_TUNNEL_PORT, ListenerSlot.TUNNEL_IPV4, ListenerSlot.TUNNEL_IPV6),
    ):
        for listener in listeners[port]:
            slots[ipv4 if listener.family == socket.AF_INET else ipv6] = listener
    return slots
