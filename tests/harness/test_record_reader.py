"""A test must not take another one's connection for its own."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.harness.record_reader import RecordReader

if TYPE_CHECKING:
    from pathlib import Path


def test_port_that_was_used_before_the_test_began_is_not_found_again(tmp_path: Path) -> None:
    reader = RecordReader(tmp_path / "connections.jsonl")

    def write(destination: str, time: str) -> None:
        with reader.records_path.open("a") as file:
            record = {"source_address": "10.0.0.1:34684", "destination_address": destination, "time": time}
            file.write(json.dumps(record) + "\n")

    def wait_for_port() -> str:
        found = reader.wait_for_record(lambda r: r["source_address"].endswith(":34684"), timeout=0.1)
        return str(found["destination_address"])

    write("10.0.0.2:80", "2026-01-01T00:00:00.000Z")
    assert wait_for_port() == "10.0.0.2:80"
    reader.begin()
    with pytest.raises(AssertionError, match="0 of 1 records after"):
        wait_for_port()
    write("10.0.0.2:81", "2026-01-01T00:00:00.000Z")  # ended late, and began before
    write("10.0.0.3:80", datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"))
    assert wait_for_port() == "10.0.0.3:80"
