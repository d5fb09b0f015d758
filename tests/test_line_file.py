"""Lines are appended whole or not at all, and old files are kept in order."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from interceptor import line_file
from interceptor.line_file import LineFile

if TYPE_CHECKING:
    from pathlib import Path


def _in_children(count, action):  # type: ignore[no-untyped-def]
    """Run `action(number)` in so many processes at once."""
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            try:
                action(number)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * count


def _descriptors_of(path: Path) -> int:
    """How often this process has the file open."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with suppress(OSError):
            found += os.path.samestat(os.fstat(int(fd)), path.stat())
    return found


def test_lines_are_appended_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    LineFile(path, 1000).write(["one", "two"])
    LineFile(path, 1000).write(["three"])
    assert path.read_text() == "one\ntwo\nthree\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_rotation_keeps_as_many_old_files_as_wanted(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "f", 4, keep=3)
    for number in range(7):
        file.write([f"{number}.."])
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {
        "f": "6..\n",
        "f.1": "5..\n",
        "f.2": "4..\n",
        "f.3": "3..\n",
    }


def test_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LineFile(tmp_path / "f", 1000)
    file.write(["whole"])
    write, written = os.write, []

    def fills_up(fd: int, data: memoryview) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(len(data))
        return write(fd, data[:3])

    with monkeypatch.context() as patch:
        patch.setattr(line_file.os, "write", fills_up)
        with pytest.raises(OSError, match="No space left"):
            file.write(["more", "lines"])
    assert file.path.read_text() == "whole\n"


def test_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "f", 1000)
    file.write(["one"])
    file.path.rename(tmp_path / "moved")
    file.write(["two"])
    assert file.path.read_text() == "two\n"


def test_processes_that_append_and_rotate_at_once_lose_no_line(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "f", 2000, keep=100)
    wanted = {f"{writer}:{number}:{'x' * 40}" for writer in range(4) for number in range(200)}

    def append(writer: int) -> None:
        for number in range(200):
            file.write([f"{writer}:{number}:{'x' * 40}"])

    _in_children(4, append)
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert len(lines) == len(wanted)
    assert set(lines) == wanted
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 2000


def test_line_that_a_killed_process_left_half_spoils_none_after_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("whole\nha")
    LineFile(path, 1000).write(["next"])
    assert path.read_text() == "whole\nha\nnext\n"


def test_file_whose_lock_somebody_keeps_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_file, "LOCK_SECONDS", 0.05)
    path = tmp_path / "f"
    with path.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process holds its lock"):
            LineFile(path, 1000).write(["one"])
    LineFile(path, 1000).write(["two"])
    assert path.read_text() == "two\n"


def test_file_that_is_rotated_while_its_lock_is_waited_for_gets_no_more_lines(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with path.open("w") as holder, ThreadPoolExecutor() as pool:
        fcntl.flock(holder, fcntl.LOCK_EX)
        written = pool.submit(LineFile(path, 1000).write, ["late"])
        while _descriptors_of(path) < 2:
            time.sleep(0.001)
        path.rename(tmp_path / "f.1")
        fcntl.flock(holder, fcntl.LOCK_UN)
        written.result(5)
    assert path.read_text() == "late\n"
    assert (tmp_path / "f.1").read_text() == ""
