"""Byte streams over non-blocking sockets, read and written without copies.

Every call tries the system call first and waits with trio only when it would
block.  A short read means that the socket was drained: the next read waits
first, which saves a failing system call for each message.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from contextlib import suppress
from typing import Protocol

import trio

# struct linger (tcp(7)): on, for no time.
_RESET, _NO_RESET = struct.pack("=ii", 1, 0), struct.pack("=ii", 0, 0)


class StreamBroken(Exception):  # noqa: N818 - what happened, not whose fault
    """The connection was reset, timed out, or was cut off without a proper end."""


class ByteStream(Protocol):
    """One end of a connection that is relayed."""

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill the beginning of `buffer`; 0 is the clean end of what the other side sends."""

    async def send_all(self, data: memoryview) -> None:
        """Send all of `data`."""

    async def finish_sending(self) -> None:
        """Half-close: nothing more will be sent, what comes can still be read."""

    async def wait_reset(self) -> None:
        """Until the connection is over, after the other side has ended its sending; StreamBroken then."""

    def close(self) -> None:
        """Close after both directions ended."""

    def abort(self) -> None:
        """Reset the connection."""


class PlainStream:
    """A TCP socket as a ByteStream.

    Until `finish_sending`, closing it is a reset: also when the kernel does it, because this process died.  A stream
    that was cut off must not look like one that ended; for TLS, that is in the protocol.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._drained = True
        _set_linger(sock, _RESET)

    async def receive_into(self, buffer: memoryview) -> int:
        if self._drained:
            await trio.lowlevel.wait_readable(self._socket)
        while True:
            try:
                received = self._socket.recv_into(buffer)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
            except OSError as error:
                raise StreamBroken(os.strerror(error.errno or 0)) from error
            else:
                self._drained = received < len(buffer)
                return received

    async def send_all(self, data: memoryview) -> None:
        sent = 0
        while True:
            try:
                sent += self._socket.send(data[sent:] if sent else data)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
            except OSError as error:
                raise StreamBroken(os.strerror(error.errno or 0)) from error
            if sent == len(data):
                return

    async def finish_sending(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
            _set_linger(self._socket, _NO_RESET)  # what is still in the kernel's buffer is delivered
        except OSError as error:
            raise StreamBroken(os.strerror(error.errno or 0)) from error

    async def wait_reset(self) -> None:
        await wait_hung_up(self._socket)

    def close(self) -> None:
        with suppress(OSError):  # closed already
            _set_linger(self._socket, _NO_RESET)
        self._socket.close()

    def abort(self) -> None:
        abort_socket(self._socket)


def abort_socket(sock: socket.socket) -> None:
    """Close with a reset, so that the other side sees a failure and not an end (tcp(7), SO_LINGER)."""
    try:
        _set_linger(sock, _RESET)
    except OSError:
        pass  # already closed, or never connected
    finally:
        sock.close()


def _set_linger(sock: socket.socket, value: bytes) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)


async def wait_hung_up(sock: socket.socket) -> None:
    """Raise StreamBroken when a connection is reset, or given up by the kernel.

    A socket whose peer has ended its sending is readable for ever: waiting for that
    tells nothing any more.  What an epoll instance reports without being asked is
    the rest (epoll_ctl(2): EPOLLHUP, EPOLLERR), and the instance can be waited for.
    """
    try:
        with select.epoll(1) as hangups:
            hangups.register(sock, 0)
            await trio.lowlevel.wait_readable(hangups.fileno())
    except OSError:
        await trio.sleep_forever()  # no descriptor is left for it: the next that is sent will tell
    raise StreamBroken("reset after its half-close")
