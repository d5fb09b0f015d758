"""Policy files that are applied together count together, whenever whoever applies them is killed."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from interceptor.agent import policy_journal
from interceptor.agent.policy_files import PolicyFiles
from interceptor.agent.policy_journal import JOURNAL, finish_replacement, replace_files
from interceptor.errors import PolicyError
from interceptor.policy.mesh_names import MeshNames
from tests.authority_store.helpers import full_disk, killed_at
from tests.policy.world import authorization

if TYPE_CHECKING:
    from pathlib import Path

FILES = ("a.yaml", "b.yaml", "c.yaml")


def version(number: int) -> dict[str, str]:
    return {name: authorization(f"{name[0]}-{number}") for name in FILES}


def versions(directory: Path) -> set[str]:
    """Of which versions the documents are that an agent finds which starts now."""
    return {
        document.head.name.name.rpartition("-")[2]
        for document in PolicyFiles(directory, MeshNames()).load().documents
    }


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "policies"
    path.mkdir()
    replace_files(path, version(0))
    return path


def test_files_killed_anywhere_are_all_old_or_all_new(directory: Path) -> None:
    step, seen = 0, []
    while killed_at(step, lambda: replace_files(directory, version(1)), also=[(os, "replace")]):
        assert versions(directory) in ({"0"}, {"1"})
        seen.append(versions(directory) == {"1"})
        assert sorted(path.name for path in directory.iterdir() if path.suffix == ".yaml") == list(FILES)
        replace_files(directory, version(0))
        step += 1
    assert step > 3 * len(FILES)
    assert seen == sorted(seen)  # and from some step on they are new
    assert True in seen
    assert False in seen
    assert versions(directory) == {"1"}
    assert sorted(path.name for path in directory.iterdir()) == list(FILES)


def test_files_killed_while_they_are_finished_are_finished_by_the_next_one(directory: Path) -> None:
    step = 0
    while True:
        committed = next(n for n in range(100) if _killed_after_commit(directory, n))
        assert committed
        if not killed_at(step, lambda: finish_replacement(directory), also=[(os, "replace")]):
            break
        assert versions(directory) == {"1"}
        replace_files(directory, version(0))
        step += 1
    assert step >= len(FILES)


def _killed_after_commit(directory: Path, step: int) -> bool:
    killed_at(step, lambda: replace_files(directory, version(1)), also=[(os, "replace")])
    return (directory / JOURNAL).exists()


def test_writer_killed_at_any_moment_leaves_one_version(directory: Path) -> None:
    deadline = time.monotonic() + 2
    for pause in range(40):
        child = os.fork()
        if child == 0:
            try:
                for number in range(1, 10_000):
                    replace_files(directory, version(number))
            finally:
                os._exit(1)
        time.sleep(pause % 10 / 500)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(versions(directory)) == 1
        if time.monotonic() > deadline:
            break


def test_full_disk_replaces_nothing(directory: Path) -> None:
    with full_disk(), pytest.raises(PolicyError, match="policies cannot be written: File too large"):
        replace_files(directory, version(1))
    assert versions(directory) == {"0"}
    assert sorted(path.name for path in directory.iterdir()) == list(FILES)


def test_directory_that_cannot_be_finished_is_read_when_it_can(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(policy_journal, "finish_replacement", lambda _: None)
        replace_files(directory, version(1))
    (directory / "b.yaml").unlink()
    (directory / "b.yaml").mkdir()
    with pytest.raises(PolicyError, match="its files are half replaced, and are read when the rest is"):
        versions(directory)
    (directory / "b.yaml").rmdir()
    assert versions(directory) == {"1"}


@pytest.mark.parametrize("text", ["", "[]", '{"files": ["../x"]}', '{"files": [7]}', "\xff"])
def test_journal_that_cannot_be_read_is_no_reason_to_guess(directory: Path, text: str) -> None:
    (directory / JOURNAL).write_bytes(text.encode("latin-1"))
    with pytest.raises(PolicyError, match=r"\.apply\.json: cannot be used"):
        versions(directory)
