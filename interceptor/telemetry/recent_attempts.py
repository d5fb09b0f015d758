"""The connections of the last hour, each kind once: who came from where to what, how often, and when last.

A thousand records are the last tenth of a second of a busy node. Policy asks about few things, so that what is different
to it fits into a bounded memory for an hour; what does not fit is forgotten oldest first, and that is told.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from interceptor.errors import InterceptorError
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.telemetry.connection_record import ConnectionRecord
from interceptor.workload import Direction, Endpoint, IPAddress, WorkloadKey, parse_address

MAX_ATTEMPTS: Final = 20_000
WINDOW_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What policy was asked about: for an inbound one, `identity` None means plaintext; an outbound one has none."""

    direction: Direction
    workload: WorkloadKey  # the one of this node
    source: IPAddress
    destination: Endpoint
    identity: SpiffeId | None


@dataclass(slots=True)
class Seen:
    """How often, and when last (Unix seconds)."""

    count: int
    last: float


class RecentAttempts:
    """Fed with finished records; `complete_since` is the moment (Unix seconds) after which nothing was forgotten."""

    def __init__(self, limit: int = MAX_ATTEMPTS) -> None:
        self._limit = limit
        self._seen: OrderedDict[Attempt, Seen] = OrderedDict()  # the one that was seen last is last
        self.complete_since = 0.0

    def add(self, record: ConnectionRecord) -> None:
        """A connection of which policy had a say has ended."""
        attempt = _attempt(record)
        if attempt is not None:
            self.note(attempt, 1, record.opened_at + record.duration_seconds(record.opened_monotonic))

    def since(self, unix_seconds: float) -> tuple[tuple[Attempt, Seen], ...]:
        """What was seen after that moment."""
        return tuple((attempt, seen) for attempt, seen in self._seen.items() if seen.last > unix_seconds)

    def lines(self, now: float) -> Iterator[str]:
        """Everything of the last hour, as lines that `load` takes: of what is there now, each made when it is needed."""
        first = json.dumps({"complete_since": self.complete_since})
        return chain((first,), map(_line, self.since(now - WINDOW_SECONDS)))

    def load(self, lines: Iterable[str], now: float) -> None:
        """Take over what an agent before this one saw; a line that is none is passed over."""
        for line in lines:
            try:
                self._load(json.loads(line), now)
            except (ValueError, KeyError, TypeError, InterceptorError):
                continue

    def _load(self, entry: dict[str, Any], now: float) -> None:
        if "complete_since" in entry:
            self.complete_since = max(self.complete_since, float(entry["complete_since"]))
            return
        attempt = Attempt(
            Direction(entry["direction"]),
            WorkloadKey(entry["namespace"], entry["workload"]),
            parse_address(entry["source"]),
            Endpoint.parse(entry["destination"]),
            None if entry["identity"] is None else SpiffeId.parse(entry["identity"]),
        )
        if now - WINDOW_SECONDS < (last := float(entry["last"])) <= now:
            self.note(attempt, int(entry["count"]), last)

    def note(self, attempt: Attempt, count: int, last: float) -> None:
        """It was made so often, and seen last at that moment."""
        seen = self._seen.get(attempt)
        if seen is not None:
            seen.count += count
            seen.last = max(seen.last, last)
            self._seen.move_to_end(attempt)
            return
        self._seen[attempt] = Seen(count, last)
        if len(self._seen) > self._limit:
            _, forgotten = self._seen.popitem(last=False)
            self.complete_since = max(self.complete_since, forgotten.last)


def _line(entry: tuple[Attempt, Seen]) -> str:
    attempt, seen = entry
    return json.dumps(
        {
            "direction": attempt.direction.value,
            "namespace": attempt.workload.namespace,
            "workload": attempt.workload.name,
            "source": str(attempt.source),
            "destination": str(attempt.destination),
            "identity": None if attempt.identity is None else str(attempt.identity),
            "count": seen.count,
            "last": seen.last,
        }
    )


def _attempt(record: ConnectionRecord) -> Attempt | None:
    source, destination = record.source, record.destination
    if source is None or destination is None:
        return None
    if record.direction is Direction.OUTBOUND:
        own = record.source_workload
        identity = None
    else:
        own = record.destination_workload
        identity = record.source_identity
    if own is None:
        return None
    return Attempt(record.direction, own.key, source.address, destination, identity)
