"""bpf(2) by hand, against the kernel."""

from __future__ import annotations

import errno
import os
import platform
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor.kernel import bpf_syscall
from interceptor.kernel.bpf_syscall import MAP_TYPE_HASH

if TYPE_CHECKING:
    from collections.abc import Iterator

# r0 = 1; exit
PASS = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)


@pytest.fixture
def hash_map() -> Iterator[int]:
    fd = bpf_syscall.create_map(MAP_TYPE_HASH, 4, 8, 4, "a_name_longer_than_the_kernels_15")
    yield fd
    os.close(fd)


@pytest.mark.bpf
def test_map_keeps_finds_and_forgets(hash_map: int) -> None:
    assert bpf_syscall.map_lookup(hash_map, b"key1", 8) is None
    assert bpf_syscall.map_keys(hash_map, 4) == []
    bpf_syscall.map_update(hash_map, b"key1", b"value--1")
    bpf_syscall.map_update(hash_map, b"key2", b"value--2")
    bpf_syscall.map_update(hash_map, b"key1", b"value--3")
    assert bpf_syscall.map_lookup(hash_map, b"key1", 8) == b"value--3"
    assert sorted(bpf_syscall.map_keys(hash_map, 4)) == [b"key1", b"key2"]
    bpf_syscall.map_delete(hash_map, b"key1")
    bpf_syscall.map_delete(hash_map, b"key1")  # gone already
    assert bpf_syscall.map_keys(hash_map, 4) == [b"key2"]


@pytest.mark.bpf
def test_map_that_is_full_says_so(hash_map: int) -> None:
    for number in range(4):
        bpf_syscall.map_update(hash_map, struct.pack("=I", number), bytes(8))
    with pytest.raises(OSError, match="too long") as caught:
        bpf_syscall.map_update(hash_map, b"more", bytes(8))
    assert caught.value.errno == errno.E2BIG


@pytest.mark.bpf
@pytest.mark.parametrize("operation", ["lookup", "update", "delete", "keys"])
def test_descriptor_that_is_no_map_is_an_error(operation: str) -> None:
    attempts = {
        "lookup": lambda fd: bpf_syscall.map_lookup(fd, b"key1", 8),
        "update": lambda fd: bpf_syscall.map_update(fd, b"key1", bytes(8)),
        "delete": lambda fd: bpf_syscall.map_delete(fd, b"key1"),
        "keys": lambda fd: bpf_syscall.map_keys(fd, 4),
    }
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            attempts[operation](fd)
    finally:
        os.close(fd)


@pytest.mark.bpf
def test_program_is_loaded_and_known_by_name() -> None:
    fd = bpf_syscall.load_program(
        bpf_syscall.PROG_TYPE_SK_LOOKUP, bpf_syscall.ATTACH_SK_LOOKUP, PASS, "itest_pass"
    )
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        (number,) = (int(line.split()[1]) for line in lines if line.startswith("prog_id:"))
        assert bpf_syscall.program_name(number) == "itest_pass"
    finally:
        os.close(fd)


@pytest.mark.bpf
def test_program_that_the_verifier_refuses_is_an_error() -> None:
    exit_without_value = PASS[8:]
    with pytest.raises(OSError, match=r"Permission denied|Invalid argument"):
        bpf_syscall.load_program(
            bpf_syscall.PROG_TYPE_SK_LOOKUP, bpf_syscall.ATTACH_SK_LOOKUP, exit_without_value, "itest_bad"
        )


@pytest.mark.bpf
def test_pin_outside_of_a_bpf_file_system_is_an_error(hash_map: int, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Operation not permitted"):
        bpf_syscall.pin(hash_map, tmp_path / "pin")
    with pytest.raises(FileNotFoundError):
        bpf_syscall.open_pinned(tmp_path / "pin")


def test_unknown_architecture_is_an_error_and_no_wrong_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf_syscall, "_NUMBER", None)
    assert not bpf_syscall.is_known_here()
    with pytest.raises(OSError, match=f"no bpf.2. system call number is known for {platform.machine()}"):
        bpf_syscall.create_map(MAP_TYPE_HASH, 4, 4, 1, "x")
