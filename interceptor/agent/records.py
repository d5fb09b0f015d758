"""Where connection records go: metrics, the memory of recent ones, and a file of JSON lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from interceptor.agent.plaintext_peers import PlaintextPeers
from interceptor.agent.queued_file import QueuedFile
from interceptor.telemetry.access_log import format_record
from interceptor.telemetry.metrics import Metrics
from interceptor.telemetry.recent import RecentConnections

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.agent.audit import Audit
    from interceptor.config import RecordsConfig
    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.telemetry.metrics import HandshakeSide

RECENT_CONNECTIONS = 1000
FLUSH_SECONDS = 0.2
PROGRESS_SECONDS = 5.0  # how often long-lived connections' bytes reach the counters


class Records:
    """The recorder that all connections of this node share; nothing in it blocks the path of a connection."""

    def __init__(self, config: RecordsConfig, audit: Audit | None = None) -> None:
        self.metrics = Metrics()
        self.recent = RecentConnections(RECENT_CONNECTIONS)
        self._file = RecordFile(config.path, config.max_bytes)
        self._audit = audit
        self.plaintext_peers = PlaintextPeers()
        self._opened: set[ConnectionRecord] = set()

    def opened(self, record: ConnectionRecord) -> None:
        """The application was reached: bytes can flow."""
        self.metrics.opened(record)
        self.recent.add(record)
        self._opened.add(record)
        self.plaintext_peers.opened(record)
        if self._audit is not None:
            self._audit.opened(record)

    def closed(self, record: ConnectionRecord) -> None:
        """A record is finished, whether the connection was ever carried or not."""
        if record in self._opened:
            self._opened.remove(record)
            self.metrics.closed(record)
            self.plaintext_peers.closed(record)
        else:
            self.metrics.failed(record)
        self.recent.finish(record)
        self._file.append(record)
        if self._audit is not None:
            self._audit.closed(record)

    def handshake(self, side: HandshakeSide, seconds: float) -> None:
        self.metrics.handshake(side, seconds)

    async def run(self) -> None:
        """Write what was recorded, and what is left when cancelled."""
        try:
            next_progress = trio.current_time() + PROGRESS_SECONDS
            while True:
                await trio.sleep(FLUSH_SECONDS)
                await trio.to_thread.run_sync(self._flush)
                if trio.current_time() >= next_progress:
                    next_progress = trio.current_time() + PROGRESS_SECONDS
                    for record in self.recent.live:
                        self.metrics.progress(record)
        finally:
            self._flush()

    def _flush(self) -> None:
        self._file.flush()
        if self._audit is not None:
            self._audit.flush()


class RecordFile(QueuedFile["ConnectionRecord"]):
    """Appends finished records to a file; a full disk loses records, and says how many."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        super().__init__(path, max_bytes, "connection records", format_record)
