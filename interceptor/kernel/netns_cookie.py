"""A network namespace's cookie on kernels that tell it to BPF programs alone (before SO_NETNS_COOKIE, Linux 5.14).

A short program at `sock_create` writes the cookie down under the socket's own cookie, which getsockopt(SO_COOKIE) tells
us too: so others that make sockets at the same time do not matter. It is attached to the root of cgroup v2, since where
net_cls or net_prio of cgroup v1 are in use these kernels take every socket for one of the root.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING

from interceptor.errors import KernelError
from interceptor.kernel import bpf_syscall
from interceptor.kernel.mounts import find_cgroup2
from interceptor.kernel.older import lift_memory_limit

if TYPE_CHECKING:
    from collections.abc import Callable

_SO_COOKIE = 57
_PROG_TYPE_CGROUP_SOCK, _ATTACH_SOCK_CREATE = 9, 2
_ENTRIES = 1024  # others make sockets, too, while we look
_MAP_TYPE_LRU_HASH = 9

# Opcodes, registers and helpers of include/uapi/linux/bpf.h and bpf_common.h.
_MOVE, _MOVE_IMMEDIATE, _CALL, _EXIT, _STORE, _LOAD_64 = 0xBF, 0xB7, 0x85, 0x95, 0x7B, 0x18
_ADD_IMMEDIATE, _PSEUDO_MAP_FD = 0x07, 1
_MAP_UPDATE_ELEM, _GET_SOCKET_COOKIE, _GET_NETNS_COOKIE = 2, 46, 122


def observed_cookie(open_probe: Callable[[], socket.socket]) -> int:
    """The cookie of the namespace in which `open_probe` makes a socket; KernelError when it cannot be had."""
    lift_memory_limit()
    try:
        with ExitStack() as undo:
            table = bpf_syscall.create_map(_MAP_TYPE_LRU_HASH, 8, 8, _ENTRIES, "netns_cookies")
            undo.callback(os.close, table)
            program = bpf_syscall.load_program(
                _PROG_TYPE_CGROUP_SOCK, _ATTACH_SOCK_CREATE, _instructions(table), "netns_cookie"
            )
            undo.callback(os.close, program)
            cgroup = os.open(find_cgroup2(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, cgroup)
            undo.callback(os.close, bpf_syscall.create_link(program, cgroup, _ATTACH_SOCK_CREATE))
            probe = undo.enter_context(open_probe())
            key = probe.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
            value = bpf_syscall.map_lookup(table, key, 8)
    except OSError as error:
        raise KernelError(f"the cookie of a network namespace cannot be had ({error.strerror})") from error
    if value is None:
        raise KernelError("the cookie of a network namespace cannot be had: the program did not run")
    return int(struct.unpack("=Q", value)[0])


def _instructions(table: int) -> bytes:
    return b"".join(
        (
            _instruction(_MOVE, 6, 1),  # r6 = the socket
            _instruction(_CALL, immediate=_GET_NETNS_COOKIE),
            _instruction(_STORE, 10, 0, -16),
            _instruction(_MOVE, 1, 6),
            _instruction(_CALL, immediate=_GET_SOCKET_COOKIE),
            _instruction(_STORE, 10, 0, -8),
            _instruction(_LOAD_64, 1, _PSEUDO_MAP_FD, immediate=table) + _instruction(0),
            _instruction(_MOVE, 2, 10),
            _instruction(_ADD_IMMEDIATE, 2, immediate=-8),
            _instruction(_MOVE, 3, 10),
            _instruction(_ADD_IMMEDIATE, 3, immediate=-16),
            _instruction(_MOVE_IMMEDIATE, 4),
            _instruction(_CALL, immediate=_MAP_UPDATE_ELEM),
            _instruction(_MOVE_IMMEDIATE, 0, immediate=1),  # the socket may be made
            _instruction(_EXIT),
        )
    )


def _instruction(
    opcode: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0
) -> bytes:
    return struct.pack("=BBhi", opcode, source << 4 | destination, offset, immediate)
