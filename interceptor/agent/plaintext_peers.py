"""Who was let in without an identity lately: those whom STRICT mode would cut off."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from interceptor.errors import InterceptorError
from interceptor.policy.verdict import Transport
from interceptor.telemetry.recent_attempts import WINDOW_SECONDS, Attempt, RecentAttempts
from interceptor.workload import Direction, Endpoint, WorkloadKey

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.workload import IPAddress

MAX_PEERS = 10_000


@dataclass(frozen=True, slots=True)
class PlaintextPeer:
    """Somebody at an address who spoke plaintext to a port of a workload."""

    workload: WorkloadKey
    destination: Endpoint
    source: IPAddress


class PlaintextPeers:
    """The peers of the last hour, each with the time when it was connected last; `seen` is what survives a restart.

    Who is connected now was there just now, however long ago the connection was made.
    """

    def __init__(self) -> None:
        self.seen = RecentAttempts(MAX_PEERS)
        self._open: dict[ConnectionRecord, PlaintextPeer] = {}

    def opened(self, record: ConnectionRecord) -> None:
        """A connection was established."""
        if record.direction is Direction.INBOUND and record.transport is Transport.PLAINTEXT:
            workload, source, destination = record.destination_workload, record.source, record.destination
            if workload is not None and source is not None and destination is not None:
                peer = PlaintextPeer(workload.key, destination, source.address)
                self._open[record] = peer
                self._add(peer, record.opened_at)

    def closed(self, record: ConnectionRecord) -> None:
        """A connection that was established has ended."""
        peer = self._open.pop(record, None)
        if peer is not None:
            self._add(peer, record.opened_at + record.duration_seconds(record.opened_monotonic))

    def since(self, unix_seconds: float) -> tuple[PlaintextPeer, ...]:
        """Those who were connected after that moment, the latest last."""
        earlier = (
            PlaintextPeer(attempt.workload, attempt.destination, attempt.source)
            for attempt, _ in self.seen.since(unix_seconds)
        )
        return tuple(dict.fromkeys((*earlier, *self._open.values())))

    def remember(self, records: Path, now: float) -> None:
        """Take over from the file of records what an agent before this one saw; what cannot be read is passed over."""
        try:
            with records.open(encoding="utf-8") as lines:
                for line in lines:
                    if '"inbound"' in line and '"none"' in line:  # most are neither, and parsing costs
                        self._remember_line(line, now)
        except (OSError, UnicodeDecodeError):
            return

    def _remember_line(self, line: str, now: float) -> None:
        try:
            entry = json.loads(line)
            if (entry["direction"], entry["connection_security_policy"]) != ("inbound", "none"):
                return
            seen = datetime.fromisoformat(entry["time"]).timestamp() + entry["duration_ms"] / 1000
            peer = PlaintextPeer(
                WorkloadKey(entry["destination_namespace"], entry["destination_workload"]),
                Endpoint.parse(entry["destination_address"]),
                Endpoint.parse(entry["source_address"]).address,
            )
        except (ValueError, KeyError, TypeError, InterceptorError):
            return
        if seen > now - WINDOW_SECONDS:
            self._add(peer, seen)

    def _add(self, peer: PlaintextPeer, seen: float) -> None:
        attempt = Attempt(Direction.INBOUND, peer.workload, peer.source, peer.destination, None)
        self.seen.note(attempt, 1, seen)
