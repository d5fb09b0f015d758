"""Where connection records go: metrics, the memory of recent ones, and a file of JSON lines."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from interceptor.agent.clock import wall_clock
from interceptor.agent.plaintext_peers import PlaintextPeers
from interceptor.agent.queued_file import QueuedFile
from interceptor.agent.state import write_atomically
from interceptor.errors import InterceptorError
from interceptor.proxy.redecide import was_decided
from interceptor.telemetry.access_log import format_record
from interceptor.telemetry.metrics import Metrics
from interceptor.telemetry.recent import RecentConnections
from interceptor.telemetry.recent_attempts import RecentAttempts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from interceptor.agent.audit import Audit
    from interceptor.config import RecordsConfig
    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.telemetry.metrics import HandshakeSide

log = logging.getLogger(__name__)

RECENT_CONNECTIONS = 1000
SAVE_SECONDS = (
    30.0  # how often what is remembered of the last hour reaches the disk: a crash costs no more of it
)
RECENT_FILE = "recent-connections.jsonl"
PLAINTEXT_FILE = "recent-plaintext.jsonl"
FLUSH_SECONDS = 0.2
PROGRESS_SECONDS = 5.0  # how often long-lived connections' bytes reach the counters


class Records:
    """The recorder that all connections of this node share; nothing in it blocks the path of a connection."""

    def __init__(
        self, config: RecordsConfig, audit: Audit | None = None, state_dir: Path | None = None
    ) -> None:
        self.metrics = Metrics()
        self.recent = RecentConnections(RECENT_CONNECTIONS)
        self._file = RecordFile(config.path, config.max_bytes)
        self._audit = audit
        self.plaintext_peers = PlaintextPeers()
        self.attempts = RecentAttempts()
        self._records_path = config.path
        self._memories = (
            ()
            if state_dir is None
            else (
                (state_dir / RECENT_FILE, self.attempts),
                (state_dir / PLAINTEXT_FILE, self.plaintext_peers.seen),
            )
        )
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
        if was_decided(record):
            self.attempts.add(record)
        self._file.append(record)
        if self._audit is not None:
            self._audit.closed(record)

    def handshake(self, side: HandshakeSide, seconds: float) -> None:
        self.metrics.handshake(side, seconds)

    async def run(self) -> None:
        """Write what was recorded, and what is left when cancelled."""
        try:
            next_progress = trio.current_time() + PROGRESS_SECONDS
            next_save = trio.current_time() + SAVE_SECONDS
            while True:
                await trio.sleep(FLUSH_SECONDS)
                await trio.to_thread.run_sync(self._flush)
                if trio.current_time() >= next_progress:
                    next_progress = trio.current_time() + PROGRESS_SECONDS
                    for record in self.recent.live:
                        self.metrics.progress(record)
                if trio.current_time() >= next_save:
                    next_save = trio.current_time() + SAVE_SECONDS
                    await trio.to_thread.run_sync(_save, self._remembered())
        finally:
            self.save()

    def save(self, *, for_good: bool = False) -> None:
        """Write what is queued and what is remembered; `for_good`: from now on another agent remembers."""
        self._flush()
        _save(self._remembered())
        if for_good:
            self._memories = ()

    def remember(self, now: float) -> None:
        """Take over what an agent before this one saw within the hour before `now` (Unix seconds)."""
        for path, memory in self._memories:
            with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as lines:
                memory.load(lines, now)
        self.plaintext_peers.remember(self._records_path, now)

    def _remembered(self) -> list[tuple[Path, Iterable[str]]]:
        now = wall_clock().timestamp()
        return [(path, memory.lines(now)) for path, memory in self._memories]

    def _flush(self) -> None:
        self._file.flush()
        if self._audit is not None:
            self._audit.flush()


def _save(remembered: Iterable[tuple[Path, Iterable[str]]]) -> None:
    for path, lines in remembered:
        try:
            write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
        except InterceptorError as error:
            log.warning("what is known of the last hour's connections is not kept: %s", error)


class RecordFile(QueuedFile["ConnectionRecord"]):
    """Appends finished records to a file; a full disk loses records, and says how many."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        super().__init__(path, max_bytes, "connection records", format_record)
