"""Records go to metrics, to memory and to a file, which is rotated and may become unwritable."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import trio

from interceptor import line_file
from interceptor.agent import records
from interceptor.agent.records import RecordFile, Records
from interceptor.config import RecordsConfig
from interceptor.telemetry.connection_record import ClosedBy, CloseKind, ConnectionRecord
from interceptor.workload import Direction

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def finished(name: str = "one") -> ConnectionRecord:
    record = ConnectionRecord(Direction.OUTBOUND, name, "trace", None, None, 1.0, 1.0)
    record.finish(2.0, ClosedBy.SOURCE, CloseKind.FIN)
    return record


def names(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_record_file_appends_lines_that_only_root_reads(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for _ in range(2):
        file = RecordFile(path, 10_000)
        file.append(finished("one"))
        file.append(finished("two"))
        file.flush()
        file.flush()
    assert names(path) == ["one", "two", "one", "two"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_record_file_is_rotated_and_one_old_one_kept(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    file = RecordFile(path, 1500)
    for number in range(7):
        file.append(finished(f"n{number}"))
        file.flush()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["records.jsonl", "records.jsonl.1"]
    kept = names(tmp_path / "records.jsonl.1") + names(path)
    assert kept == [f"n{number}" for number in range(7 - len(kept), 7)]
    assert all(entry.stat().st_size <= 1500 for entry in tmp_path.iterdir())


def test_record_file_that_cannot_be_written_loses_records_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "records.jsonl"
    path.mkdir()
    file = RecordFile(path, 10_000)
    for _ in range(3):
        file.append(finished())
        file.flush()
    assert [r.getMessage() for r in caplog.records] == [
        f"connection records are lost: cannot write {path} (Is a directory)"
    ]
    path.rmdir()
    file.append(finished("again"))
    file.flush()
    assert names(path) == ["again"]
    assert caplog.records[-1].getMessage() == f"{path} is written again; connection records lost so far: 3"


def test_record_file_on_a_full_disk_keeps_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "records.jsonl"
    file = RecordFile(path, 100_000)
    file.append(finished("whole"))
    file.flush()
    write = os.write
    attempts = []

    def fills_up(fd: int, data: memoryview) -> int:
        attempts.append(len(data))
        if len(attempts) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[:50])

    with monkeypatch.context() as patch:
        patch.setattr(line_file.os, "write", fills_up)
        file.append(finished("half"))
        file.flush()
    file.append(finished("later"))
    file.flush()
    assert names(path) == ["whole", "later"]


def test_record_file_bounds_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_QUEUED", 2)
    file = RecordFile(tmp_path / "records.jsonl", 100_000)
    for name in ("a", "b", "c"):
        file.append(finished(name))
    file.flush()
    assert names(tmp_path / "records.jsonl") == ["a", "b"]


async def test_records_are_written_soon_and_when_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "FLUSH_SECONDS", 0.01)
    path = trio.Path(tmp_path / "records.jsonl")
    everything = Records(RecordsConfig(tmp_path / "records.jsonl", 100_000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(everything.run)
        everything.closed(finished("soon"))
        with trio.fail_after(10):
            while not await path.exists():  # noqa: ASYNC110 - a file has no event
                await trio.sleep(0.01)
        everything.closed(finished("last"))
        nursery.cancel_scope.cancel()
    assert names(tmp_path / "records.jsonl") == ["soon", "last"]


async def test_records_of_carried_and_failed_connections_are_counted_apart(tmp_path: Path) -> None:
    everything = Records(RecordsConfig(tmp_path / "records.jsonl", 100_000))
    carried = ConnectionRecord(Direction.OUTBOUND, "carried", "trace", None, None, 1.0, 1.0)
    everything.opened(carried)
    assert [r["state"] for r in everything.recent.list(9, 5.0)] == ["open"]
    carried.finish(2.0, ClosedBy.SOURCE, CloseKind.FIN)
    everything.closed(carried)
    everything.closed(finished("failed"))
    assert [r["state"] for r in everything.recent.list(9, 5.0)] == ["closed", "closed"]
    exposed = everything.metrics.expose().decode()
    for name in ("opened", "closed", "failed"):
        line = next(x for x in exposed.splitlines() if x.startswith(f"istio_tcp_connections_{name}_total{{"))
        assert line.endswith(" 1.0")
