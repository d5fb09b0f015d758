"""The facts about one connection on one side, gathered while it lives and finished exactly once.

Creating one and setting its attributes is all that happens on the path of a connection; whatever costs more (text,
JSON, dates) waits until somebody asks.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.verdict import Permit, Reason, Transport, Verdict
from interceptor.workload import Direction, Endpoint, Workload

UNKNOWN_TRANSPORT: Final = "unknown"  # policy never said how the bytes would travel


class ClosedBy(StrEnum):
    """Who ended the connection first: one of the two applications, or we."""

    SOURCE = "source"
    DESTINATION = "destination"
    INTERCEPTOR = "interceptor"


class CloseKind(StrEnum):
    """How it ended: every byte delivered (FIN), or cut off (RST)."""

    FIN = "fin"
    RESET = "reset"


@dataclass(slots=True, eq=False)  # two records are never the same connection; hashed by what they are
class ConnectionRecord:
    """One connection as one node saw it; `id` is this side's, `trace_id` is shared by both sides.

    `opened_at` is in Unix seconds, `opened_monotonic` in seconds of the monotonic clock. Bytes are counted as the
    source sees them, on both sides: sent is source to destination. An identity is set only when it was proven, so a
    plaintext connection has none, whatever the registry says of the address.
    """

    direction: Direction
    id: str
    trace_id: str
    source: Endpoint | None
    destination: Endpoint | None
    opened_at: float
    opened_monotonic: float
    source_workload: Workload | None = field(default=None, init=False)
    destination_workload: Workload | None = field(default=None, init=False)
    is_outside: bool = field(
        default=False, init=False
    )  # it is certain that the destination is not in the mesh
    source_identity: SpiffeId | None = field(default=None, init=False)
    destination_identity: SpiffeId | None = field(default=None, init=False)
    verdict: Literal["permit", "denial"] | None = field(default=None, init=False)
    reason: Reason | None = field(default=None, init=False)
    detail: str = field(default="", init=False)
    policy: str = field(default="", init=False)
    exception: str = field(default="", init=False)
    note: str = field(default="", init=False)
    dry_run: str = field(default="", init=False)
    transport: Transport | None = field(default=None, init=False)
    tls_version: str | None = field(default=None, init=False)
    cipher: str | None = field(default=None, init=False)
    key_exchange: str | None = field(default=None, init=False)
    own_serials: tuple[str, ...] = field(default=(), init=False)  # of the chain that we proved, leaf first
    peer_serials: tuple[str, ...] = field(
        default=(), init=False
    )  # of the chain that the peer proved, leaf first
    peer_not_after: datetime | None = field(default=None, init=False)  # of its leaf
    bytes_sent: int = field(default=0, init=False)
    bytes_received: int = field(default=0, init=False)
    closed_by: ClosedBy | None = field(default=None, init=False)
    close_kind: CloseKind | None = field(default=None, init=False)
    closed_monotonic: float | None = field(default=None, init=False)

    def decide(self, verdict: Verdict) -> None:
        """Note what policy said; a later denial replaces the permit, and leaves the transport as it was."""
        self.policy, self.dry_run = verdict.policy, verdict.dry_run
        if isinstance(verdict, Permit):
            self.verdict = "permit"
            self.transport = verdict.transport
            self.exception, self.note = verdict.exception, verdict.note
        else:
            self.verdict = "denial"
            self.reason = verdict.reason
            self.detail = verdict.detail

    @property
    def is_finished(self) -> bool:
        """Whether `finish` was called."""
        return self.closed_monotonic is not None

    def finish(self, monotonic: float, closed_by: ClosedBy, close_kind: CloseKind) -> None:
        """Note the end, in seconds of the monotonic clock; raises RuntimeError when it was noted before."""
        if self.closed_monotonic is not None:
            raise RuntimeError(f"connection {self.id} was finished already, by {self.closed_by}")
        self.closed_monotonic = monotonic
        self.closed_by = closed_by
        self.close_kind = close_kind

    def duration_seconds(self, now_monotonic: float) -> float:
        """How long it lasted, or has lasted until now."""
        end = now_monotonic if self.closed_monotonic is None else self.closed_monotonic
        return end - self.opened_monotonic

    def to_dict(self, now_monotonic: float) -> dict[str, object]:
        """Everything as flat JSON values; the keys and their order are stable, what is not known is None."""
        return {
            "id": self.id,
            "trace_id": self.trace_id,
            "time": _rfc3339(self.opened_at),
            "direction": self.direction.value,
            "source_address": _text(self.source),
            "source_workload": self.source_workload.name if self.source_workload else None,
            "source_namespace": _namespace(self.source_workload, self.source_identity),
            "source_identity": _text(self.source_identity),
            "destination_address": _text(self.destination),
            "destination_workload": self.destination_workload.name if self.destination_workload else None,
            "destination_namespace": _namespace(self.destination_workload, self.destination_identity),
            "destination_identity": _text(self.destination_identity),
            "bytes_sent": self.bytes_sent,
            "bytes_received": self.bytes_received,
            "duration_ms": round(self.duration_seconds(now_monotonic) * 1000, 3),
            "closed_by": _text(self.closed_by),
            "close_kind": _text(self.close_kind),
            "verdict": self.verdict,
            "reason": _text(self.reason),
            "detail": self.detail,
            "policy": self.policy or None,
            "exception": self.exception or None,
            "note": self.note or None,
            "dry_run": self.dry_run or None,
            "connection_security_policy": self.transport.value if self.transport else UNKNOWN_TRANSPORT,
            "tls_version": self.tls_version,
            "tls_cipher": self.cipher,
            "tls_key_exchange": self.key_exchange,
            "peer_serial_number": self.peer_serials[0] if self.peer_serials else None,
            "state": "closed" if self.is_finished else "open",
        }


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def _namespace(workload: Workload | None, identity: SpiffeId | None) -> str | None:
    """The namespace of the workload, or the one in its identity when the registry does not know the workload."""
    if workload is not None:
        return workload.namespace
    return None if identity is None else identity.namespace


def _rfc3339(unix_seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(unix_seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
