"""bpf(2), as far as bcc does not offer it: links, pins, and maps by file descriptor.

Layouts are those of `union bpf_attr` in the kernel's `include/uapi/linux/bpf.h`.
Every function raises OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAP_TYPE_HASH, MAP_TYPE_ARRAY, MAP_TYPE_SOCKMAP = 1, 2, 15

PROG_TYPE_SK_LOOKUP = 30
ATTACH_SK_LOOKUP = 36

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_GET_NEXT_KEY = 0, 1, 2, 3, 4
_PROG_LOAD, _OBJ_PIN, _OBJ_GET, _LINK_CREATE, _LINK_UPDATE = 5, 6, 7, 28, 29
_PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD, _PROG_QUERY, _LINK_DETACH = 13, 15, 16, 34

_QUERIED_PROGRAMS = 64  # BPF_CGROUP_MAX_PROGS
_PROGRAM_INFO_BYTES, _PROGRAM_NAME = 80, slice(64, 80)  # struct bpf_prog_info up to and with `name`

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
# No default: a wrong number would be another system call.
_NUMBER = _SYSCALL_NUMBERS.get(platform.machine())
_libc = ctypes.CDLL(None, use_errno=True)
_LICENSE = ctypes.create_string_buffer(b"GPL")


def is_known_here() -> bool:
    """Whether the system call's number is known for this machine's architecture."""
    return _NUMBER is not None


def _bpf(command: int, attributes: bytes) -> int:
    return _call(command, ctypes.create_string_buffer(attributes, len(attributes)))


def _call(command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """One system call; what the kernel answers besides the result is in the buffer."""
    if _NUMBER is None:
        raise OSError(38, f"no bpf(2) system call number is known for {platform.machine()}")
    result = int(_libc.syscall(_NUMBER, command, ctypes.byref(buffer), len(buffer)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def create_map(map_type: int, key_bytes: int, value_bytes: int, entries: int, name: str) -> int:
    """A new, empty map; returns its file descriptor."""
    attributes = struct.pack(
        "=IIIIIII16s", map_type, key_bytes, value_bytes, entries, 0, 0, 0, name.encode()[:15]
    )
    return _bpf(_MAP_CREATE, attributes)


def map_lookup(map_fd: int, key: bytes, value_bytes: int) -> bytes | None:
    """The value under `key`, or None if there is none."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value_bytes)
    attributes = struct.pack("=IIQQQ", map_fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value), 0)
    try:
        _bpf(_MAP_LOOKUP, attributes)
    except FileNotFoundError:
        return None
    return value.raw


def map_update(map_fd: int, key: bytes, value: bytes) -> None:
    """Create or replace one entry."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    _bpf(
        _MAP_UPDATE,
        struct.pack("=IIQQQ", map_fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value_buffer), 0),
    )


def map_delete(map_fd: int, key: bytes) -> None:
    """Remove one entry; none there is no error."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(_MAP_DELETE, struct.pack("=IIQQQ", map_fd, 0, ctypes.addressof(key_buffer), 0, 0))
    except FileNotFoundError:
        return


def map_keys(map_fd: int, key_bytes: int) -> list[bytes]:
    """Every key of a map, as it is while the entries may change."""
    keys: list[bytes] = []
    following = ctypes.create_string_buffer(key_bytes)
    current = 0
    holder = ctypes.create_string_buffer(key_bytes)
    while True:
        try:
            _bpf(_MAP_GET_NEXT_KEY, struct.pack("=IIQQQ", map_fd, 0, current, ctypes.addressof(following), 0))
        except FileNotFoundError:
            return keys
        keys.append(following.raw)
        holder.raw = following.raw
        current = ctypes.addressof(holder)


def load_program(program_type: int, attach_type: int, instructions: bytes, name: str) -> int:
    """Load instructions that were verified before, with other maps; returns the program's file descriptor."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    return _bpf(
        _PROG_LOAD,
        struct.pack(
            "=IIQQIIQII16sII",
            program_type,
            len(instructions) // 8,
            ctypes.addressof(code),
            ctypes.addressof(_LICENSE),
            0,
            0,
            0,
            0,
            0,
            name.encode()[:15],
            0,
            attach_type,
        ),
    )


def pin(fd: int, path: Path) -> None:
    """Give a program, map or link a name in a BPF file system; it lives as long as that."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))


def open_pinned(path: Path) -> int:
    """The file descriptor of a pinned object."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))


def create_link(program_fd: int, target_fd: int, attach_type: int) -> int:
    """Attach a program to a cgroup or a network namespace; detached when the link's last reference goes."""
    return _bpf(_LINK_CREATE, struct.pack("=IIII", program_fd, target_fd, attach_type, 0))


def update_link(link_fd: int, program_fd: int) -> None:
    """Replace a link's program in one step; ENOLINK when what it was attached to is gone."""
    _bpf(_LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, 0, 0))


def detach_link(link_fd: int) -> None:
    """Detach at once, whoever else has the link."""
    _bpf(_LINK_DETACH, struct.pack("=I", link_fd))


def attached_programs(cgroup_fd: int, attach_type: int) -> tuple[tuple[int, ...], int]:
    """The ids of the programs attached to a cgroup itself, and the flags (BPF_F_ALLOW_*) they are attached with."""
    ids = (ctypes.c_uint32 * _QUERIED_PROGRAMS)()
    attributes = struct.pack(
        "=IIIIQII", cgroup_fd, attach_type, 0, 0, ctypes.addressof(ids), _QUERIED_PROGRAMS, 0
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    _call(_PROG_QUERY, buffer)
    flags, count = struct.unpack_from("=12xI8xI", buffer)
    return tuple(ids[:count]), flags


def program_name(program_id: int) -> str:
    """The name that a program was loaded with, at most 15 characters; empty if it has none."""
    fd = _bpf(_PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0))
    try:
        information = ctypes.create_string_buffer(_PROGRAM_INFO_BYTES)
        _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, _PROGRAM_INFO_BYTES, ctypes.addressof(information)))
    finally:
        os.close(fd)
    return information.raw[_PROGRAM_NAME].rstrip(b"\0").decode(errors="replace")
