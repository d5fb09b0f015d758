"""What survives an agent: written whole, read strictly, and used by one agent at a time."""

from __future__ import annotations

import fcntl
import json
import os
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from interceptor.agent.reference import NamespaceReference, Process
from interceptor.agent.state import (
    EnrolledState,
    Lock,
    RunDetails,
    StateFile,
    boot_id,
    private_directory,
    write_atomically,
)
from interceptor.errors import StateError
from interceptor.kernel.return_path import PreviousSysctls
from interceptor.workload import WorkloadKey

if TYPE_CHECKING:
    from pathlib import Path

SYSCTLS = PreviousSysctls({"net/ipv4/fwmark_reflect": "0"})


def state(name: str = "web", *, run: bool = False) -> EnrolledState:
    process = None if run else Process(12, 3456)
    path = f"/run/interceptor/netns/default.{name}" if run else None
    return EnrolledState(
        WorkloadKey("default", name),
        "account",
        NamespaceReference(path, process, 4, 4026532000, 77),
        (ip_address("10.0.0.1"), ip_address("fd00::1"), ip_address("fe80::1")),
        SYSCTLS,
        RunDetails(Process(98, 7654), "icpt0123456789") if run else None,
    )


def test_state_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    saved = [state("web"), state("db", run=True)]
    StateFile(tmp_path).save(saved)
    assert StateFile(tmp_path).load() == saved
    assert [path.name for path in tmp_path.iterdir()] == ["workloads.json"]
    assert (tmp_path / "workloads.json").stat().st_mode & 0o777 == 0o600


def test_state_file_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert StateFile(tmp_path).load() == []


def test_state_file_of_another_boot_is_empty(tmp_path: Path) -> None:
    StateFile(tmp_path).save([state()])
    path = tmp_path / "workloads.json"
    path.write_text(path.read_text().replace(boot_id(), "another"))
    assert StateFile(tmp_path).load() == []


def _document(**changes: Any) -> bytes:
    document = {"version": 1, "boot_id": boot_id(), "workloads": [{**state(run=True).to_dict(), **changes}]}
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"[" * 50_000,
        b'{"version": 2}',
        b'{"version": 1, "boot_id": "' + boot_id().encode() + b'"}',
        b'{"version": 1, "boot_id": "' + boot_id().encode() + b'", "workloads": {"a": 1}}',
        _document()[:-20],
        _document(namespace="../x"),
        _document(namespace=None),
        _document(name="Web"),
        _document(service_account="a/b"),
        _document(service_account=7),
        _document(netns=None),
        _document(netns={"path": None, "pid": None, "device": 1, "inode": 1, "cookie": 1}),
        _document(netns={"path": "/x", "pid": 1, "start": 1, "device": 1, "inode": 1, "cookie": 1}),
        _document(netns={"path": "/x", "pid": None, "start": None, "device": "one", "inode": 1, "cookie": 1}),
        _document(netns={"path": "/x", "pid": None, "start": None, "device": 1, "inode": 1}),
        _document(sysctls={"kernel/core_pattern": "|/bin/sh"}),
        _document(sysctls={"net/ipv4/fwmark_reflect": "0\n"}),
        _document(addresses=None),
        _document(addresses=["10.0.0.256"]),
        _document(addresses=[7]),
        _document(sysctls=[]),
        _document(run={}),
        _document(run={"pid": "x", "start": 1, "host_link": "y"}),
    ],
)
def test_state_file_with_anything_else_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "workloads.json").write_bytes(content)
    with pytest.raises(
        StateError, match=r"cannot be used .*: 'interceptor down' withdraws everything"
    ) as caught:
        StateFile(tmp_path).load()
    assert "\n" not in str(caught.value)


def test_state_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.save([state()])
    (tmp_path / ".workloads.json.new").mkdir()  # what stands in the way of the next one
    with pytest.raises(StateError, match=r"cannot write .*/workloads.json: Is a directory"):
        file.save([])
    assert file.load() == [state()]


def test_atomic_write_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("untouched")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "target").read_text() == "untouched"
    assert (tmp_path / "file").read_text() == "new"


def test_private_directory_is_made_or_checked(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    private_directory(path)
    assert path.stat().st_mode & 0o777 == 0o700
    private_directory(path)
    path.chmod(0o750)
    with pytest.raises(StateError, match="has mode 0750, others can look into it: chmod 0700"):
        private_directory(path)


def test_private_directory_that_is_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(StateError, match="is not a directory"):
        private_directory(tmp_path / "link")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StateError, match="cannot use the directory"):
            private_directory(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away: needs root")
def test_private_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.mkdir(mode=0o700)
    os.chown(path, 65534, 65534)
    with pytest.raises(StateError, match=f"belongs to uid 65534: chown it to uid {os.geteuid()}"):
        private_directory(path)


def test_lock_has_one_holder_who_is_named(tmp_path: Path) -> None:
    lock = Lock(tmp_path, "paths.state")
    with pytest.raises(StateError, match=rf"another agent \(pid {os.getpid()}\) uses .*another paths.state"):
        Lock(tmp_path, "paths.state")
    lock.release()
    Lock(tmp_path, "paths.state").release()


def test_lock_on_a_directory_that_was_removed_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next owner would make another directory of that name, and lock that one."""
    directory = tmp_path / "run"
    directory.mkdir()
    flock = fcntl.flock

    def removed_before(fd: int, operation: int) -> None:
        directory.rmdir()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - names are enough
    with pytest.raises(StateError, match=f"the directory {directory} was removed just now: try again"):
        Lock(directory, "paths.run")
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_lock_on_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot use the directory"):
        Lock(tmp_path / "missing", "paths.run")
