"""Records go to metrics, to memory and to a file, which is rotated and may become unwritable."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

import trio

from interceptor import line_file
from interceptor.agent import queued_file, records
from interceptor.agent.clock import wall_clock
from interceptor.agent.records import RecordFile, Records
from interceptor.config import RecordsConfig
from interceptor.policy.verdict import Permit, Transport
from interceptor.telemetry.connection_record import ClosedBy, CloseKind, ConnectionRecord
from interceptor.workload import Direction, Endpoint
from tests.policy.world import DB

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
    monkeypatch.setattr(queued_file, "MAX_QUEUED", 2)
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


def decided(source: str, transport: Transport = Transport.PLAINTEXT) -> ConnectionRecord:
    """A connection of this moment that was let in."""
    now = wall_clock().timestamp()
    made = ConnectionRecord(
        Direction.INBOUND, "c", "t", Endpoint.parse(source), Endpoint.parse("10.0.0.2:80"), now, 1.0
    )
    made.destination_workload = DB
    made.decide(Permit(transport))
    return made


async def test_last_hour_survives_a_restart_and_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(records, "SAVE_SECONDS", 0.05)
    config = RecordsConfig(path=tmp_path / "records.jsonl")
    before = Records(config, state_dir=tmp_path)
    nursery.start_soon(before.run)
    for number in range(2):
        made = decided(f"192.0.2.7:{4000 + number}")
        before.opened(made)
        made.finish(1.0, ClosedBy.SOURCE, CloseKind.FIN)
        before.closed(made)
    undecided = finished()
    before.closed(undecided)

    def known() -> tuple[list[int], int]:
        after = Records(RecordsConfig(path=tmp_path / "none.jsonl"), state_dir=tmp_path)
        after.remember(wall_clock().timestamp() + 1)
        return [seen.count for _, seen in after.attempts.since(0)], len(after.plaintext_peers.since(0))

    with trio.fail_after(10):
        while known() != ([2], 1):  # noqa: ASYNC110 - a file has no event
            await trio.sleep(0.01)


def test_memory_that_cannot_be_kept_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records._save([(tmp_path / "none" / "x.jsonl", ["{}"])])
    assert "what is known of the last hour's connections is not kept" in caplog.text
