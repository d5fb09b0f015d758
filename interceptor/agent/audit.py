"""The audit trail: a file of JSON lines that says who was denied, who used an exception, and who changed the policy."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from interceptor.agent.queued_file import QueuedFile
from interceptor.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from interceptor.telemetry.connection_record import ConnectionRecord

KEEP = 8  # rotated files: whoever makes many denials must not push out what they did before

# What ended a connection without anybody having been denied anything.
_NO_DENIALS = frozenset(
    {
        Reason.DESTINATION_REFUSED,
        Reason.DESTINATION_TIMEOUT,
        Reason.DESTINATION_UNREACHABLE,
        Reason.WITHDRAWN,
        Reason.AGENT_STOPPING,
        Reason.CONNECTION_TOO_OLD,
    }
)
_FROM_RECORD = (
    "trace_id",
    "direction",
    "source_address",
    "source_workload",
    "source_namespace",
    "source_identity",
    "destination_address",
    "destination_workload",
    "destination_namespace",
    "destination_identity",
    "connection_security_policy",
)


class Audit:
    """Appends events; nothing in it blocks. `exceptions_used` counts, by the exception's name, since the start."""

    def __init__(self, path: Path, max_bytes: int, now: Callable[[], datetime]) -> None:
        self.path = path
        self._file: QueuedFile[dict[str, Any]] = QueuedFile(
            path, max_bytes, "audit events", json.dumps, keep=KEEP
        )
        self._now = now
        self.exceptions_used: Counter[str] = Counter()

    def opened(self, record: ConnectionRecord) -> None:
        """A connection was established; noted if only an exception let it through."""
        if record.exception:
            self.exceptions_used[record.exception] += 1
            self._append("exception_used", exception=record.exception, **_facts(record))

    def closed(self, record: ConnectionRecord) -> None:
        """A record is finished; noted if it ends in a denial."""
        if record.reason is not None and record.reason not in _NO_DENIALS:
            self._append(
                "denial",
                reason=record.reason.value,
                policy=record.policy or None,
                detail=record.detail,
                **_facts(record),
            )

    def policy_changed(self, by: str, changes: dict[str, list[str]], closed: int, diff: list[str]) -> None:
        """Another set of policies is in force: by whom, which documents, and how many connections that closed."""
        self._append("policy_changed", by=by, **changes, connections_closed=closed, diff=diff)

    def policy_refused(self, by: str, error: str) -> None:
        """A set of policies was refused; the one before stays in force."""
        self._append("policy_refused", by=by, error=error)

    def flush(self) -> None:
        """Write what is queued."""
        self._file.flush()

    def _append(self, event: str, **facts: object) -> None:
        moment = self._now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._file.append({"time": moment, "event": event, **facts})


def _facts(record: ConnectionRecord) -> dict[str, object]:
    shown = record.to_dict(record.opened_monotonic)
    return {"connection": record.id, **{key: shown[key] for key in _FROM_RECORD}}
