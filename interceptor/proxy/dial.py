"""Connect a socket to an endpoint within a time, with the refusals that the kernel gives translated."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import trio

from interceptor.errors import InvalidInput, KernelError
from interceptor.policy.verdict import Reason
from interceptor.proxy.refusal import Refusal
from interceptor.transport.sockets import family_of, socket_address, tune
from interceptor.workload import Endpoint, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.workload import IPAddress


def open_socket(opener: Callable[[int], socket.socket], address: IPAddress) -> socket.socket:
    """A socket to connect to `address` with; Refusal when the kernel has none left."""
    try:
        return opener(family_of(address))
    except (OSError, KernelError) as error:
        raise Refusal(Reason.RESOURCES_EXHAUSTED, f"no socket to connect with: {error}") from error


def peer_endpoint(sock: socket.socket) -> Endpoint:
    """Who is at the other end; Refusal if it left before we looked, or has no port (a forged packet may say 0)."""
    try:
        return _endpoint(sock.getpeername())
    except OSError as error:
        raise Refusal(Reason.HANDSHAKE_FAILED, "the peer left at once") from error
    except InvalidInput as error:
        raise Refusal(Reason.HANDSHAKE_FAILED, f"the peer's address: {error}") from error


def local_endpoint(sock: socket.socket) -> Endpoint:
    """Our end: for a steered connection, where the peer meant to connect; Refusal when that was port 0."""
    try:
        return _endpoint(sock.getsockname())
    except InvalidInput as error:
        raise Refusal(Reason.NO_ORIGINAL_DESTINATION, f"the destination: {error}") from error


def _endpoint(name: tuple[str, int]) -> Endpoint:
    host, port = name[:2]
    return Endpoint(parse_address(host.partition("%")[0]), port)


async def connect(sock: socket.socket, endpoint: Endpoint, seconds: float) -> None:
    """Connect a non-blocking socket; Refusal says how it failed.  The caller closes the socket."""
    result = sock.connect_ex(socket_address(endpoint))
    if result == errno.EINPROGRESS:
        with trio.move_on_after(seconds) as scope:
            await trio.lowlevel.wait_writable(sock)
        if scope.cancelled_caught:
            raise Refusal(Reason.DESTINATION_TIMEOUT, f"{endpoint} did not answer within {seconds:g} s")
        result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if result == errno.ECONNREFUSED:
        raise Refusal(Reason.DESTINATION_REFUSED, f"{endpoint} refused the connection")
    if result == errno.ETIMEDOUT:
        raise Refusal(Reason.DESTINATION_TIMEOUT, f"{endpoint} did not answer")
    if result == errno.EADDRNOTAVAIL:
        raise Refusal(Reason.RESOURCES_EXHAUSTED, f"no local port is left towards {endpoint}")
    if result:
        raise Refusal(Reason.DESTINATION_UNREACHABLE, f"{endpoint}: {os.strerror(result)}")
    tune(sock)
