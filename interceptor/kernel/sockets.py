"""Socket options that the proxy needs and `socket` has no words for. Numbers are Linux's own, from its UAPI headers."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from interceptor.errors import KernelError
from interceptor.kernel.abi import RETURN_PATH_MARK
from interceptor.workload import Endpoint

_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_IP_BIND_ADDRESS_NO_PORT = 24
_SO_ORIGINAL_DST = 80  # the same number for IPv4 and, as IP6T_SO_ORIGINAL_DST, for IPv6
_SOCKADDR_IN, _SOCKADDR_IN6 = struct.Struct("=2x2s4s8x"), struct.Struct("=2x2s4x16s4x")

# No hook answered, or netfilter's connection tracking did and knows of no redirection.
_NO_ORIGINAL_DESTINATION = frozenset({errno.ENOENT, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENOTCONN})


def make_transparent(sock: socket.socket) -> None:
    """Let an unconnected TCP socket bind to an address that is not ours: its client's.

    Bind it to port 0 afterwards: the port is then chosen at connect, so that one client address can be used for more
    connections than there are ports. Raises KernelError without CAP_NET_ADMIN.
    """
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, RETURN_PATH_MARK)
        # By the return path's route, through loopback itself.  By the local route the kernel
        # would say that it arrived on the link which has the destination address, and the
        # connection would be steered back to the proxy.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
    except OSError as error:
        raise KernelError(
            f"cannot take over a client's address: {error.strerror}; the agent needs CAP_NET_ADMIN"
        ) from error


def original_destination(sock: socket.socket) -> Endpoint | None:
    """Where the application meant to connect, for a socket that a listener accepted; None if nobody knows.

    Asked as any transparent proxy does it, `getsockopt(SO_ORIGINAL_DST)`; a BPF program answers. Raises KernelError
    on an answer that cannot be one.
    """
    if sock.family == socket.AF_INET6:
        destination = _ask(sock, socket.IPPROTO_IPV6, _SOCKADDR_IN6)
        if destination is not None:
            return destination
    # An IPv6 socket may also have accepted an IPv4 client.
    return _ask(sock, socket.IPPROTO_IP, _SOCKADDR_IN)


def _ask(sock: socket.socket, level: int, layout: struct.Struct) -> Endpoint | None:
    try:
        answer = sock.getsockopt(level, _SO_ORIGINAL_DST, layout.size)
    except OSError as error:
        if error.errno in _NO_ORIGINAL_DESTINATION:
            return None
        raise KernelError(f"cannot ask for the original destination: {error.strerror}") from error
    if len(answer) != layout.size:
        raise KernelError(f"the original destination has {len(answer)} bytes instead of {layout.size}")
    port, packed = layout.unpack(answer)
    number = int.from_bytes(port, "big")
    if number == 0:
        return None  # an application may ask for port 0, but no connection can go there
    return Endpoint(IPv4Address(packed) if layout is _SOCKADDR_IN else IPv6Address(packed), number)
