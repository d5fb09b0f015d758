"""Read an agent's connection records, and wait for those that are about to be written."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.harness.patience import patient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in a node's records."""

    offset: int = 0
    time: str = ""


class RecordReader:
    """The file of JSON lines that an agent writes; `records_path` is where.

    A record is looked for among those of connections that began since a mark, or else since `begin`: a port that the
    kernel chose is chosen again some day, for a connection to somebody else.
    """

    def __init__(self, records_path: Path) -> None:
        self.records_path = records_path
        self._beginning = Mark()

    def begin(self) -> None:
        """Pass over what was recorded before: a test begins."""
        self._beginning = self.mark()

    def mark(self) -> Mark:
        """Now: give it as `since` to see only records of connections that begin later."""
        size = self.records_path.stat().st_size if self.records_path.exists() else 0
        return Mark(size, datetime.now(UTC).isoformat(timespec="milliseconds"))

    def records(self, since: Mark | None = None) -> list[Record]:
        """The finished connections in the file, in the order in which they ended."""
        if not self.records_path.exists():
            return []
        since = since or self._beginning
        with self.records_path.open("rb") as file:
            file.seek(since.offset)
            lines = [json.loads(line) for line in file if line.endswith(b"\n")]
        # One that had ended before may be written later.
        return [record for record in lines if record["time"] >= since.time]

    def wait_for_record(
        self, predicate: Callable[[Record], object], *, since: Mark | None = None, timeout: float = 10
    ) -> Record:
        """The first record for which `predicate` holds; AssertionError lists what there is instead."""
        return self.wait_for_records(predicate, 1, since=since, timeout=timeout)[0]

    def wait_for_records(
        self,
        predicate: Callable[[Record], object],
        count: int,
        *,
        since: Mark | None = None,
        timeout: float = 10,
    ) -> list[Record]:
        """At least `count` records for which `predicate` holds."""
        deadline = time.monotonic() + patient(timeout)
        while True:
            found = self.records(since)
            matching = [record for record in found if predicate(record)]
            if len(matching) >= count:
                return matching
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{len(matching)} of {count} records after {timeout:g} s; the last ones are {found[-6:]}"
                )
            time.sleep(0.02)  # the agent writes five times a second

    def wait_for_pair(
        self,
        predicate: Callable[[Record], object] = lambda _: True,
        *,
        since: Mark | None = None,
        timeout: float = 10,
    ) -> tuple[Record, Record]:
        """Both sides' records of one carried connection whose outbound one satisfies `predicate`."""
        outbound = self.wait_for_record(
            lambda r: r["direction"] == "outbound" and predicate(r), since=since, timeout=timeout
        )
        inbound = self.wait_for_record(
            lambda r: r["direction"] == "inbound" and r["trace_id"] == outbound["trace_id"],
            since=since,
            timeout=timeout,
        )
        return outbound, inbound
