"""Where connection records go: metrics, the memory of recent ones, and a file of JSON lines."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import trio

from interceptor.line_file import LineFile
from interceptor.telemetry.access_log import format_record
from interceptor.telemetry.metrics import Metrics
from interceptor.telemetry.recent import RecentConnections

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.config import RecordsConfig
    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.telemetry.metrics import HandshakeSide

log = logging.getLogger(__name__)

RECENT_CONNECTIONS = 1000
FLUSH_SECONDS = 0.2
PROGRESS_SECONDS = 5.0  # how often long-lived connections' bytes reach the counters
MAX_QUEUED = 100_000  # records that wait for a disk that does not keep up


class Records:
    """The recorder that all connections of this node share; nothing in it blocks the path of a connection."""

    def __init__(self, config: RecordsConfig) -> None:
        self.metrics = Metrics()
        self.recent = RecentConnections(RECENT_CONNECTIONS)
        self._file = RecordFile(config.path, config.max_bytes)
        self._opened: set[ConnectionRecord] = set()

    def opened(self, record: ConnectionRecord) -> None:
        """The application was reached: bytes can flow."""
        self.metrics.opened(record)
        self.recent.add(record)
        self._opened.add(record)

    def closed(self, record: ConnectionRecord) -> None:
        """A record is finished, whether the connection was ever carried or not."""
        if record in self._opened:
            self._opened.remove(record)
            self.metrics.closed(record)
        else:
            self.metrics.failed(record)
        self.recent.finish(record)
        self._file.append(record)

    def handshake(self, side: HandshakeSide, seconds: float) -> None:
        self.metrics.handshake(side, seconds)

    async def run(self) -> None:
        """Write what was recorded, and what is left when cancelled."""
        try:
            next_progress = trio.current_time() + PROGRESS_SECONDS
            while True:
                await trio.sleep(FLUSH_SECONDS)
                await trio.to_thread.run_sync(self._file.flush)
                if trio.current_time() >= next_progress:
                    next_progress = trio.current_time() + PROGRESS_SECONDS
                    for record in self.recent.live:
                        self.metrics.progress(record)
        finally:
            self._file.flush()


class RecordFile:
    """Appends finished records to a file; a full disk loses records, and says how many."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._file = LineFile(path, max_bytes)
        self._queue: deque[ConnectionRecord] = deque()
        self._lost = 0
        self._failing = False

    def append(self, record: ConnectionRecord) -> None:
        """Queue a finished record."""
        if len(self._queue) < MAX_QUEUED:
            self._queue.append(record)
        else:
            self._lost += 1

    def flush(self) -> None:
        """Write everything that is queued; called from one thread at a time."""
        lines = []
        while self._queue:
            lines.append(format_record(self._queue.popleft()))
        if not lines:
            return
        try:
            self._file.write(lines)
        except OSError as error:
            self._lost += len(lines)
            if not self._failing:  # said once, the log may be on the same disk
                log.warning(
                    "connection records are lost: cannot write %s (%s)", self._file.path, error.strerror
                )
            self._failing = True
        else:
            if self._failing:
                log.warning(
                    "%s is written again; connection records lost so far: %d", self._file.path, self._lost
                )
            self._failing = False
