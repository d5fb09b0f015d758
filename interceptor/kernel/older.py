"""Kernels before Linux 5.17: whether this is one, and what the agent does for the programs there (bpf/older.c)."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import struct
from typing import TYPE_CHECKING

from interceptor.kernel import bpf_syscall

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping

OLDER_MAPS = ("namespace_of", "relayed")
# function -> (program type, attach type), as in `bpf_program`
OLDER_PROGRAMS: Mapping[str, tuple[int, int]] = {"refuse_disguised": (8, 0)}
# r0 = SK_PASS; exit -- and before that: r0 = ingress_ifindex of struct bpf_sk_lookup
_PASS = bytes.fromhex("b700000001000000 9500000000000000")
_ASK_FOR_THE_LINK = bytes.fromhex("6110400000000000") + _PASS


@functools.cache
def is_older_kernel() -> bool:
    """Whether sk_lookup programs are not told the link that a connection came over.

    Asked of the verifier: distributions bring features to kernels with older numbers. Where no such program can be
    loaded at all the answer is no, and what comes next says why.
    """
    return _is_accepted(_PASS) and not _is_accepted(_ASK_FOR_THE_LINK)


def _is_accepted(code: bytes) -> bool:
    try:
        program = bpf_syscall.load_program(
            bpf_syscall.PROG_TYPE_SK_LOOKUP, bpf_syscall.ATTACH_SK_LOOKUP, code, "asks_for_link"
        )
    except OSError:
        return False
    os.close(program)
    return True


def lift_memory_limit() -> None:
    """Before Linux 5.11, maps and programs count as locked memory of the process, of which little is allowed."""
    # Without CAP_SYS_RESOURCE it stays; what does not fit then is refused with EPERM.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def note_namespace(maps: Mapping[str, int], cookie: int, listeners: Iterable[socket.socket]) -> None:
    """Tell the programs in which namespace these listeners are, and so what they accept; OSError as of bpf(2)."""
    if (table := maps.get("namespace_of")) is None:
        return  # they ask the kernel
    for listener in listeners:
        bpf_syscall.map_update(table, struct.pack("=i", listener.fileno()), struct.pack("=Q", cookie))
