"""Notice that the addresses of a network namespace change, without asking for them again and again."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interceptor.kernel.netns import NetworkNamespace

_NETLINK_ROUTE = 0
_IPV4_ADDRESSES, _IPV6_ADDRESSES = 0x10, 0x100  # RTMGRP_*_IFADDR of linux/rtnetlink.h
_RECEIVE_BYTES = 65536


def open_address_events(netns: NetworkNamespace) -> socket.socket:
    """A non-blocking socket that becomes readable when an address of the namespace comes or goes (rtnetlink(7))."""
    events = netns.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
    events.bind((0, _IPV4_ADDRESSES | _IPV6_ADDRESSES))
    return events


def drain(events: socket.socket) -> None:
    """Discard what was announced: the addresses themselves are read afterwards."""
    while True:
        try:
            events.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            continue  # ENOBUFS: some were lost, which is as good an announcement
