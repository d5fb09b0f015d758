"""What happened, as Events: each once, what is repeated counted in a series, and too much at once told in one.

Source: kubernetes.io, the reference of `Event v1 events.k8s.io`: what happens again within some minutes is a series, of
which only count and time of the last one change.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from interceptor.cluster_status.token_bucket import TokenBucket

MOST_WAITING: Final = 100  # beyond that, what happened to several is told together
MOST_REMEMBERED: Final = 1000
SERIES_SECONDS: Final = 600.0  # after so long it is another one
COUNT_SECONDS: Final = 60.0  # between two times that a count is written
TOGETHER_SECONDS: Final = 30.0
MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """What an Event is about; `namespace` is empty for a node."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Happening:
    """One kind of thing that happens to one subject; `note` may be another each time."""

    subject: Subject
    is_warning: bool
    reason: str
    action: str


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An Event to be created; no other of this log has its number."""

    happening: Happening
    note: str
    number: int


@dataclass(frozen=True, slots=True)
class Repetition:
    """One that is there already happened again: so often by now."""

    happening: Happening
    count: int
    number: int


@dataclass(slots=True)
class _Series:
    number: int
    last_at: float
    counted_at: float
    count: int = 1
    is_counted: bool = True
    is_created: bool = False


@dataclass(slots=True)
class _Together:
    """What happened to too many at once: how many, and the first of them."""

    count: int = 0
    names: list[str] = field(default_factory=list)


class EventLog:
    """What is to be told; one owner. `now` is in seconds of a clock that only goes on.

    `whole` is the subject of what is told of several together.
    """

    def __init__(self, bucket: TokenBucket, whole: Subject) -> None:
        self._bucket = bucket
        self._whole = whole
        self._series: dict[Happening, _Series] = {}  # the one that happened longest ago comes first
        self._waiting: dict[Happening, str] = {}
        self._together: dict[tuple[bool, str, str], _Together] = {}
        self._together_at = -TOGETHER_SECONDS
        self._numbers = count()

    def happened(self, happening: Happening, note: str, now: float) -> None:
        """Something happened."""
        series = self._series.pop(happening, None)
        if series is not None and now < series.last_at + SERIES_SECONDS:
            series.last_at, series.count, series.is_counted = now, series.count + 1, False
            self._series[happening] = series
            return
        if len(self._waiting) >= MOST_WAITING:
            self._put_together(happening)
            return
        self._waiting[happening] = note
        self._series[happening] = _Series(next(self._numbers), now, now)
        if len(self._series) > MOST_REMEMBERED:
            oldest = next(iter(self._series))
            del self._series[oldest]
            self._waiting.pop(oldest, None)

    def due(self, now: float) -> Iterator[NewEvent | Repetition]:
        """What to tell now; each counts as told when it is taken."""
        for happening, note in list(self._waiting.items()):
            if not self._bucket.take(now):
                return
            del self._waiting[happening]
            series = self._series[happening]
            series.is_created = True
            yield NewEvent(happening, note, series.number)
        yield from self._due_together(now)
        for happening, series in list(self._series.items()):
            if series.is_created and not series.is_counted and now >= series.counted_at + COUNT_SECONDS:
                if not self._bucket.take(now):
                    return
                series.counted_at = now
                series.is_counted = True
                yield Repetition(happening, series.count, series.number)

    def put_back(self, told: NewEvent | Repetition) -> None:
        """It could not be told, for a reason that is not its own."""
        series = self._series.get(told.happening)
        if isinstance(told, NewEvent) and series is not None and len(self._waiting) < MOST_WAITING:
            series.is_created = False
            self._waiting[told.happening] = told.note

    def _put_together(self, happening: Happening) -> None:
        key = (happening.is_warning, happening.reason, happening.action)
        found = self._together.setdefault(key, _Together())
        found.count += 1
        if len(found.names) < MOST_NAMED:
            found.names.append(str(happening.subject))

    def _due_together(self, now: float) -> Iterator[NewEvent]:
        if not self._together or now < self._together_at + TOGETHER_SECONDS:
            return
        for key, found in list(self._together.items()):
            if not self._bucket.take(now):
                return
            del self._together[key]
            self._together_at = now
            is_warning, reason, action = key
            more = f" and {found.count - len(found.names)} more" if found.count > len(found.names) else ""
            note = f"{found.count} at once: {', '.join(found.names)}{more}"
            yield NewEvent(Happening(self._whole, is_warning, reason, action), note, next(self._numbers))
