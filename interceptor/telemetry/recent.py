"""The live connections and the last finished ones, for whoever asks what is going on."""

from collections import deque
from itertools import chain, islice

from interceptor.telemetry.connection_record import ConnectionRecord


class RecentConnections:
    """Live records, and rings of the last `limit` finished ones, and of as many denials before those.

    A busy client of one application would otherwise push out the one denial of another within a second.
    """

    def __init__(self, limit: int) -> None:
        self._live: dict[ConnectionRecord, None] = {}  # a dict, for it keeps the order of insertion
        self._finished: deque[ConnectionRecord] = deque(maxlen=limit)
        self._older_denials: deque[ConnectionRecord] = deque(maxlen=limit)

    def add(self, record: ConnectionRecord) -> None:
        """A connection began."""
        self._live[record] = None

    def finish(self, record: ConnectionRecord) -> None:
        """A connection ended, its record is finished; one that was never added is only kept in the ring."""
        self._live.pop(record, None)
        if len(self._finished) == self._finished.maxlen and self._finished[0].verdict == "denial":
            self._older_denials.append(self._finished[0])
        self._finished.append(record)

    @property
    def live(self) -> tuple[ConnectionRecord, ...]:
        """The records of the connections that are open, oldest first."""
        return tuple(self._live)

    def list(self, limit: int, now_monotonic: float) -> tuple[dict[str, object], ...]:
        """At most `limit` records as dicts: live ones first, then finished ones, each with the newest first."""
        live = islice(reversed(self._live), limit)
        over = chain(reversed(self._finished), reversed(self._older_denials))
        finished = islice(over, max(0, limit - len(self._live)))
        return tuple(record.to_dict(now_monotonic) for records in (live, finished) for record in records)
