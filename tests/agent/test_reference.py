"""Which process and which network namespace is meant: never another one that came to have the same number."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from interceptor.agent import reference
from interceptor.agent.reference import NamespaceReference, Process, end_processes, process_start
from interceptor.errors import EnrolmentError, StateError
from interceptor.kernel import netns as kernel_netns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

root_only = pytest.mark.netns


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_process_is_known_by_when_it_started(sleeper: subprocess.Popen[bytes]) -> None:
    found = Process.find(sleeper.pid)
    assert found.is_alive()
    assert not Process(found.pid, found.start + 1).is_alive()
    sleeper.kill()
    sleeper.wait()
    assert not found.is_alive()
    with pytest.raises(EnrolmentError, match=f"process {found.pid} does not exist, or has ended"):
        Process.find(found.pid)


def test_process_that_is_a_zombie_has_ended() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(process.pid) is None
    process.wait()


def test_process_with_a_confusing_name_is_read_all_the_same(tmp_path: Path) -> None:
    program = tmp_path / "a) S 1 (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "60"])
    try:
        assert process_start(process.pid) is not None
    finally:
        process.kill()
        process.wait()


def test_process_that_cannot_be_looked_at_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without file descriptors, every workload would seem to have ended, and be withdrawn."""

    def no_more(*_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    found = Process.find(os.getpid())
    monkeypatch.setattr(reference.Path, "read_text", no_more)
    with pytest.raises(OSError, match="Too many open files"):
        found.is_alive()


def test_reference_gives_itself_back_from_its_dictionary() -> None:
    for original in (
        NamespaceReference("/run/netns/blue", None, 4, 5, 6),
        NamespaceReference(None, Process(7, 8), 4, 5, 6),
    ):
        assert NamespaceReference.from_dict(original.to_dict()) == original


def test_reference_with_path_and_process_is_refused() -> None:
    whole = NamespaceReference("/run/netns/blue", None, 4, 5, 6).to_dict()
    for wrong in ({**whole, "pid": 1, "start": 1}, {**whole, "path": None}):
        with pytest.raises(StateError, match="either a path or a pid"):
            NamespaceReference.from_dict(wrong)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where network namespaces may be bound: none is at the end, however that comes."""
    yield tmp_path
    for entry in tmp_path.iterdir():
        kernel_netns.remove_named(entry)


@root_only
def test_namespace_is_opened_again_by_its_path(directory: Path) -> None:
    path = directory / "blue"
    with kernel_netns.create_named(path):
        found, netns = NamespaceReference.by_path(str(path))
        netns.close()
        assert found.path == str(path)
        assert found.is_alive()
        with found.reopen() as again:  # type: ignore[union-attr] # it is there
            assert (again.device, again.inode) == (found.device, found.inode)
    kernel_netns.remove_named(path)
    assert not found.is_alive()
    assert found.reopen() is None


@root_only
def test_namespace_of_the_same_name_and_inode_is_not_the_same(directory: Path) -> None:
    """The kernel gives the inode to the next one at once; a workload would have inherited another's identity."""
    names = (directory / str(number) for number in itertools.count())
    path = directory / "blue"
    deadline = time.monotonic() + 15
    while (before := _reference_whose_inode_is_used_again(path, names)) is None:
        assert time.monotonic() < deadline, "the inode was not used again"
    assert before.reopen() is None


def _reference_whose_inode_is_used_again(path: Path, names: Iterator[Path]) -> NamespaceReference | None:
    """None when another process got the inode, or the kernel took its time to clear up."""

    def bind_new() -> Path:
        name = next(names)
        kernel_netns.create_named(name).close()
        path.unlink(missing_ok=True)
        path.symlink_to(name)
        return name

    first = bind_new()
    before, netns = NamespaceReference.by_path(str(path))
    netns.close()
    kernel_netns.remove_named(first)
    for _ in range(10):
        bind_new()
        if before.is_alive():
            return before
        time.sleep(0.05)  # the kernel clears up in the background, and gives the lowest number that is free
    return None


@root_only
def test_namespace_whose_name_is_gone_is_found_through_a_process(directory: Path) -> None:
    path = directory / "blue"
    kernel_netns.create_named(path).close()
    found, netns = NamespaceReference.by_path(str(path))
    process = subprocess.Popen(["nsenter", f"--net={path}", "sleep", "60"])
    try:
        with netns:
            while process.pid not in netns.processes():
                assert process.poll() is None
        kernel_netns.remove_named(path)
        assert not found.is_alive()
        with found.reopen() as again:  # type: ignore[union-attr] # it is there
            assert again.cookie() == found.cookie
            end_processes(again)
        assert process.wait(10) == -9
    finally:
        process.kill()
        process.wait()


@root_only
def test_namespace_of_a_process_is_known_by_that_process(sleeper: subprocess.Popen[bytes]) -> None:
    found, netns = NamespaceReference.by_pid(sleeper.pid)
    netns.close()
    assert found.process == Process.find(sleeper.pid)
    assert found.is_alive()
    sleeper.kill()
    sleeper.wait()
    assert not found.is_alive()
