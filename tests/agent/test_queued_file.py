"""What is queued is written in files of the size that is allowed, however much comes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.agent.queued_file import QueuedFile

if TYPE_CHECKING:
    from pathlib import Path


def test_burst_is_written_to_several_files_none_of_which_is_too_large(tmp_path: Path) -> None:
    file = QueuedFile[int](tmp_path / "f", 100, "numbers", lambda number: f"{number:09}", keep=3)
    for number in range(38):
        file.append(number)
    file.flush()
    files = [tmp_path / name for name in ("f.3", "f.2", "f.1", "f")]
    assert [path.stat().st_size for path in files] == [100, 100, 100, 80]
    assert [int(line) for path in files for line in path.read_text().split()] == list(range(38))
