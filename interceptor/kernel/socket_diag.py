"""Find, count and close other programs' TCP connections: sock_diag(7), spoken by hand, because pyroute2 has no SOCK_DESTROY.

Layouts are those of `include/uapi/linux/inet_diag.h`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.errors import KernelError
from interceptor.kernel.abi import RETURN_PATH_MARK
from interceptor.kernel.netlink import addresses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.workload import IPAddress, IPNetwork

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 1, 4, 0x300
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBxI48s")  # inet_diag_req_v2: family, protocol, extensions, states, id
_RECEIVE_BYTES = 1 << 17
_TIMEOUT_SECONDS = 5  # the kernel answers at once; a bound, so that the agent cannot hang

_TCP_SYN_SENT, _TCP_TIME_WAIT, _TCP_CLOSE, _TCP_LISTEN = 2, 6, 7, 10
_WANTED_STATES = 0xFFE & ~(1 << _TCP_TIME_WAIT | 1 << _TCP_CLOSE | 1 << _TCP_LISTEN)
_NO_STATES = 0
_LISTENING = 1 << _TCP_LISTEN
_INET_DIAG_MARK = 15  # an attribute that only CAP_NET_ADMIN is shown
_MESSAGE_BYTES = 72  # inet_diag_msg, before its attributes
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_PASSES = 5  # a socket may change while the list is read: a half-open one becomes another when it is accepted


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """A socket of a TCP connection: its two ends, the inode (0: no process has it any more) and the mark."""

    family: int
    identifier: bytes  # inet_diag_sockid: ports, addresses, link, cookie
    local_port: int
    local: IPAddress
    remote_port: int
    remote: IPAddress
    inode: int
    mark: int


def destroy_established(netns: NetworkNamespace, networks: Iterable[IPNetwork]) -> int:
    """Abort every TCP connection of a namespace with a remote address in one of `networks`; returns how many.

    Both ends see an error or a reset. Listening sockets, and connections over loopback or to one of the namespace's
    own addresses, stay. For enrolment: capture must be on already (or new ones come about meanwhile), and the proxy
    must not have connections of its own in there yet (they would be among them). Raises KernelError.
    """
    wanted = tuple(networks)
    own = {found.address for found in addresses(netns)}
    destroyed = 0
    try:
        with netns.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as channel:
            channel.settimeout(_TIMEOUT_SECONDS)
            for _ in range(_PASSES):
                found = [each for each in _sockets(channel) if _is_affected(each.remote, own, wanted)]
                destroyed += sum(_destroy(channel, each) for each in found)
                if not found:
                    break
    except OSError as error:
        raise _cannot_close(netns, error) from error
    return destroyed


def begun_outside(netns: NetworkNamespace, mesh: Iterable[IPNetwork]) -> list[OpenConnection]:
    """The connections that a namespace's programs began themselves, past the proxy, to addresses outside of `mesh`.

    Left out is what arrived: it has the local port of somebody who listens, is one of this process's own sockets (the
    proxy's), or the end of an application that the proxy connected to. Raises KernelError.
    """
    networks = tuple(mesh)
    own = {found.address for found in addresses(netns)}
    try:
        with netns.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as channel:
            channel.settimeout(_TIMEOUT_SECONDS)
            found = [
                each
                for each in _sockets(channel)
                if not each.remote.is_loopback
                and each.remote not in own
                and each.mark != RETURN_PATH_MARK
                and not any(each.remote in network for network in networks)
            ]
            if not found:
                return []
            listening = {each.local_port for each in _sockets(channel, _LISTENING)}
    except OSError as error:
        raise KernelError(f"cannot list the connections in {netns.description}: {error.strerror}") from error
    ours = _own_inodes()
    return [each for each in found if each.local_port not in listening and each.inode not in ours]


def destroy(netns: NetworkNamespace, connections: Iterable[OpenConnection]) -> list[OpenConnection]:
    """Abort connections; returns those that were there still. Raises KernelError."""
    try:
        with netns.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as channel:
            channel.settimeout(_TIMEOUT_SECONDS)
            return [each for each in connections if _destroy(channel, each)]
    except OSError as error:
        raise _cannot_close(netns, error) from error


def _own_inodes() -> set[int]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.add(os.fstat(int(descriptor.name)).st_ino)
    return found


def _cannot_close(netns: NetworkNamespace, error: OSError) -> KernelError:
    reason = (
        "the kernel lacks CONFIG_INET_DIAG_DESTROY" if error.errno == errno.EOPNOTSUPP else error.strerror
    )
    return KernelError(f"cannot close the open connections in {netns.description}: {reason}")


def count_connecting(netns: NetworkNamespace, port: int) -> int:
    """How many sockets of a namespace wait for an answer from a port of its loopback. Raises KernelError."""
    try:
        with netns.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as channel:
            channel.settimeout(_TIMEOUT_SECONDS)
            found = _sockets(channel, 1 << _TCP_SYN_SENT)
    except OSError as error:
        raise KernelError(f"cannot list the connections in {netns.description}: {error.strerror}") from error
    return sum(each.remote.is_loopback and each.remote_port == port for each in found)


def _is_affected(remote: IPAddress, own: set[IPAddress], networks: tuple[IPNetwork, ...]) -> bool:
    return not remote.is_loopback and remote not in own and any(remote in network for network in networks)


def _sockets(channel: socket.socket, states: int = _WANTED_STATES) -> list[OpenConnection]:
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, bytes(48))
        _send(channel, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, body)
        found += [_parse(message) for message in _answers(channel)]
    return found


def _parse(message: bytes) -> OpenConnection:
    """inet_diag_msg: family, state, timer, retransmissions, id, expires, two queues, uid, inode; then attributes."""
    family, identifier = message[0], message[4:52]
    local_port, remote_port = struct.unpack_from("!HH", identifier)
    return OpenConnection(
        family,
        identifier,
        local_port,
        _address(family, identifier[4:20]),
        remote_port,
        _address(family, identifier[20:36]),
        struct.unpack_from("=I", message, _MESSAGE_BYTES - 4)[0],
        _mark(message[_MESSAGE_BYTES:]),
    )


def _address(family: int, packed: bytes) -> IPAddress:
    if family == socket.AF_INET:
        return IPv4Address(packed[:4])
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _mark(attributes: bytes) -> int:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _INET_DIAG_MARK:
            return int(struct.unpack_from("=I", attributes, _ATTRIBUTE.size)[0])
        attributes = attributes[max((length + 3) & ~3, _ATTRIBUTE.size) :]
    return 0


def _destroy(channel: socket.socket, target: OpenConnection) -> bool:
    """Whether it was there still: the cookie in `identifier` keeps us from another with the same addresses."""
    body = _REQUEST.pack(target.family, socket.IPPROTO_TCP, 0, _NO_STATES, target.identifier)
    _send(channel, _SOCK_DESTROY, _NLM_F_REQUEST | _NLM_F_ACK, body)
    try:
        list(_answers(channel))
    except FileNotFoundError:
        return False
    return True


def _send(channel: socket.socket, kind: int, flags: int, body: bytes) -> None:
    channel.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body)


def _answers(channel: socket.socket) -> Iterator[bytes]:
    """The bodies of all messages that answer the last request, until the kernel says that it is done."""
    while True:
        data = channel.recv(_RECEIVE_BYTES)
        while data:
            length, kind, _, _, _ = _HEADER.unpack_from(data)
            body = data[_HEADER.size : length]
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", body)[0]
                if number:
                    raise OSError(number, os.strerror(number))
                return
            yield body
            data = data[(length + 3) & ~3 :]
