"""What `interceptor down` does about locks; everything else of it needs a kernel, and is in tests/integration."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from interceptor.agent import teardown
from interceptor.agent.state import Lock
from interceptor.errors import StateError

if TYPE_CHECKING:
    from pathlib import Path


def test_lock_on_a_directory_that_another_down_removes_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    other = Lock(directory, "paths.run")

    def meanwhile(_: float) -> None:
        directory.rmdir()
        other.release()

    monkeypatch.setattr(teardown.time, "sleep", meanwhile)
    with ExitStack() as stack:
        teardown._take_lock(directory, "paths.run", stack)
    assert not directory.exists()


def test_lock_that_stays_taken_is_one_line_with_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teardown, "LOCK_SECONDS", 0.1)
    other = Lock(tmp_path, "paths.bpf")
    with ExitStack() as stack, pytest.raises(StateError, match=f"uses the directory {tmp_path}: .*paths.bpf"):
        teardown._take_lock(tmp_path, "paths.bpf", stack)
    other.release()
    with ExitStack() as stack:
        teardown._take_lock(tmp_path, "paths.bpf", stack)
