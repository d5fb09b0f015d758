"""What two agents of one node say to each other when the one hands over to the other: small messages, with descriptors.

A Unix socket that keeps messages apart (SOCK_SEQPACKET) in the run-time directory, of mode 0600; both look whether the
other is root. A message is a JSON object with up to MAX_DESCRIPTORS file descriptors.

    successor                                     predecessor
    protocol, abi, pid, instance, directories -->
                                              <-- pid, version              + maps that are lent; or refused, again
    want: hand over                           -->
                                              <-- give: locks, doors, listeners of each workload, done
    now: serving                              -->
                                              <-- now: yours                from here on it only drains
                                              <-- draining: ...             now and then, until it ends
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final

import trio

from interceptor.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PROTOCOL: Final = 1
SOCKET_NAME: Final = "handover.sock"
INSTANCE_VARIABLE: Final = "POD_UID"  # tells the pods apart that follow each other on a node
MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_DESCRIPTORS: Final = 16
SEND_SECONDS: Final = 10.0
_BACKLOG: Final = 8
_RIGHTS_BYTES: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
_CREDENTIALS: Final = struct.Struct("=iII")  # of SO_PEERCRED: pid, uid, gid


class WireError(StateError):
    """The other agent is gone, silent, or does not speak as it should."""


@dataclass(frozen=True, slots=True)
class Message:
    """`fds` are the receiver's to close."""

    content: Mapping[str, Any]
    fds: tuple[int, ...] = ()

    def close_descriptors(self) -> None:
        """Nobody wants them."""
        for fd in self.fds:
            os.close(fd)


class Wire:
    """One end of the conversation; `pid` is the other's, by what the kernel says."""

    def __init__(self, sock: socket.socket) -> None:
        """The socket is the wire's to close, also when this fails: StateError when the other is not of our user."""
        sock.setblocking(False)
        self._sock = sock
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid != os.geteuid():
            sock.close()
            raise StateError(
                f"process {self.pid} of uid {uid} may neither hand this node over nor take it over"
            )

    @property
    def fd(self) -> int:
        return self._sock.fileno()

    async def send(self, content: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """WireError when the other one is gone, or does not read."""
        data = json.dumps(content).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with trio.move_on_after(SEND_SECONDS):
            while True:
                try:
                    self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._sock)
                except OSError as error:
                    raise WireError(f"agent {self.pid} is gone ({error.strerror})") from error
                else:
                    return
        raise WireError(f"agent {self.pid} does not read what it is told")

    async def receive(self, seconds: float = inf) -> Message:
        """The next message; WireError when the other one is gone, silent for so long, or says what is none."""
        with trio.move_on_after(seconds):
            while True:
                try:
                    data, rights, flags, _ = self._sock.recvmsg(
                        MAX_MESSAGE_BYTES, _RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC
                    )
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._sock)
                except OSError as error:
                    raise WireError(f"agent {self.pid} is gone ({error.strerror})") from error
                else:
                    return self._parsed(data, _descriptors(rights), flags)
        raise WireError(f"agent {self.pid} does not answer, for {seconds:g} s")

    def _parsed(self, data: bytes, fds: list[int], flags: int) -> Message:
        is_whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        content = _object(data) if is_whole else None
        if content is not None:
            return Message(content, tuple(fds))
        Message({}, tuple(fds)).close_descriptors()
        if not data:
            raise WireError(f"agent {self.pid} is gone")
        raise WireError(f"agent {self.pid} says what no agent of this version says")

    def close(self) -> None:
        """The other one sees the end; again is no error."""
        if self._sock.fileno() >= 0:
            with suppress(RuntimeError):  # the event loop is not running (yet, or any more)
                trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


def _descriptors(rights: list[tuple[int, int, bytes]]) -> list[int]:
    """Not by socket.recv_fds, which ignores the flags that it is given: no program that we run is to inherit them."""
    fds = array.array("i")
    for level, sort, data in rights:
        if (level, sort) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def listen(path: Path) -> socket.socket:
    """Listen where a successor will ask; a dead agent's socket is replaced.  StateError when that cannot be."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        path.unlink(missing_ok=True)
        previous = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(previous)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise StateError(f"cannot listen on {path}: {error.strerror}") from error
    sock.setblocking(False)
    return sock


def listen_again(sock: socket.socket) -> None:
    """Have a listening socket's peers see our pid, where they saw that of whoever listened before."""
    sock.listen(_BACKLOG)


def connect(path: Path) -> Wire | None:
    """The way to the agent that listens there; None when nobody does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)  # one that is frozen accepts nothing: a full backlog is no reason to wait
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        return None
    return Wire(sock)
