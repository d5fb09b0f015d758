"""The proxy's listening sockets inside a workload's network namespace."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel.abi import INBOUND_PLAINTEXT_PORT, INBOUND_TUNNEL_PORT, OUTBOUND_PORT, ListenerSlot
from interceptor.transport.sockets import LISTEN_BACKLOG

if TYPE_CHECKING:
    from contextlib import ExitStack

    from interceptor.kernel.netns import NetworkNamespace

_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def open_listeners(netns: NetworkNamespace, undo: ExitStack) -> dict[int, list[socket.socket]]:
    """Listen on the three ports, for each family that the namespace has; by port.

    They are closed by `undo`.  EnrolmentError when a program in there has one of the ports.
    """
    families = [socket.AF_INET, socket.AF_INET6] if netns.has_ipv6() else [socket.AF_INET]
    listeners: dict[int, list[socket.socket]] = {}
    for port in (OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, INBOUND_TUNNEL_PORT):
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
