"""connect(2) by way of io_uring(7), which does not pass through the connect system call.  x86-64 and arm64 numbers."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from ipaddress import ip_address

_SETUP, _ENTER = 425, 426
_OP_CONNECT = 16
_GETEVENTS = 1
_PARAMETERS_BYTES = 120  # struct io_uring_params
_OFF_RINGS, _OFF_ENTRIES = 0, 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)


def is_available() -> bool:
    """Whether this kernel has it, and lets us use it."""
    try:
        os.close(_call(_SETUP, 1, ctypes.create_string_buffer(_PARAMETERS_BYTES)))
    except OSError:
        return False
    return True


def connect(sock: socket.socket, address: str, port: int) -> int:
    """Connect a blocking socket; 0 or a negative errno, as the completion says.  OSError if there is no io_uring."""
    parameters = ctypes.create_string_buffer(_PARAMETERS_BYTES)
    ring = _call(_SETUP, 4, parameters)
    try:
        submission = struct.unpack_from(
            "=10I", parameters, 40
        )  # head, tail, mask, entries, flags, dropped, array, ...
        completion = struct.unpack_from(
            "=10I", parameters, 80
        )  # head, tail, mask, entries, overflow, cqes, ...
        with (
            mmap.mmap(ring, 65536, offset=_OFF_RINGS) as rings,
            mmap.mmap(ring, 4 * 64, offset=_OFF_ENTRIES) as entries,
        ):
            target = _sockaddr(address, port)
            struct.pack_into(
                "=BBHiQQ", entries, 0, _OP_CONNECT, 0, 0, sock.fileno(), len(target), ctypes.addressof(target)
            )
            struct.pack_into("=I", rings, submission[6], 0)
            struct.pack_into("=I", rings, submission[1], 1)
            _call(_ENTER, ring, 1, 1, _GETEVENTS, 0, 0)
            _, result, _ = struct.unpack_from("=QiI", rings, completion[5])
            return int(result)
    finally:
        os.close(ring)


def _sockaddr(address: str, port: int) -> ctypes.Array[ctypes.c_char]:
    packed = ip_address(address).packed
    if len(packed) == 4:
        raw = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + packed + bytes(8)
    else:
        raw = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + packed + bytes(4)
    return ctypes.create_string_buffer(raw, len(raw))


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
