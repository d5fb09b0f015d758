"""Lines are appended whole or not at all, and old files are kept in order."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from interceptor import line_file
from interceptor.line_file import LineFile

if TYPE_CHECKING:
    from pathlib import Path


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
