"""Which conditions must be written now: those that differ from what the API shows, seldom enough.

Level-triggered: what is wanted is compared with what the API has, and nothing depends on having been told of a change.
So what an agent before this one wrote is corrected, and what could not be written is written later.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from interceptor.cluster.condition import Condition, Told
from interceptor.cluster_status.token_bucket import TokenBucket

SETTLE_SECONDS: Final = (
    5.0  # what is not well may be on its way: a pod that starts is told of once, not thrice
)
FIRST_PAUSE_SECONDS: Final = (
    10.0  # until the API shows what was written, or somebody else wrote something else
)
LONGEST_PAUSE_SECONDS: Final = 600.0
STEADY_SECONDS: Final = 60.0  # what has been as it is wanted for so long may be written at once again
_MOST_DOUBLINGS: Final = 10

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What shall be said of an object, and what the API has; of which `generation` of it, where that counts."""

    condition: Condition
    told: Told | None
    generation: int | None = None

    @property
    def is_said(self) -> bool:
        """Whether the API has it as it is wanted."""
        told = self.told
        return (
            told is not None
            and told.condition == self.condition
            and (self.generation is None or told.generation == self.generation)
        )


@dataclass(slots=True)
class _Subject:
    wanted: Condition
    since: float
    announced: tuple[bool, str] | None  # of what somebody was told last
    next_at: float = 0.0
    attempts: int = 0
    right_since: float | None = None


class Changes(Generic[K]):
    """What is wanted of each object; one owner. `now` is in seconds of a clock that only goes on.

    What is kept is about the objects that are wanted, and of no others.
    """

    def __init__(self, bucket: TokenBucket, settle_seconds: float = SETTLE_SECONDS) -> None:
        self._bucket = bucket
        self._settle = settle_seconds
        self._subjects: dict[K, _Subject] = {}

    def want(self, wanted: Mapping[K, Wanted], now: float) -> None:
        """Everything that shall be said."""
        for key in self._subjects.keys() - wanted.keys():
            del self._subjects[key]
        for key, each in wanted.items():
            subject = self._subjects.get(key)
            if subject is None:
                said = None if each.told is None else _gist(each.told.condition)
                self._subjects[key] = subject = _Subject(each.condition, now, said)
            elif subject.wanted != each.condition:
                if _gist(subject.wanted) != _gist(each.condition):
                    subject.since = now
                subject.wanted, subject.next_at, subject.attempts = each.condition, 0.0, 0
            _compare(subject, each.is_said, now)

    def due(self, now: float) -> Iterator[tuple[K, Condition]]:
        """What to write now, that which waits for longest first; each counts against the bucket when it is taken."""
        waiting = [
            (subject.since, number, key, subject)
            for number, (key, subject) in enumerate(self._subjects.items())
            if subject.right_since is None and self._is_settled(subject, now) and subject.next_at <= now
        ]
        for *_, key, subject in sorted(waiting):
            if not self._bucket.take(now):
                return
            subject.next_at = now + _pause(subject.attempts)
            subject.attempts += 1
            yield key, subject.wanted

    def put_back(self, key: K) -> None:
        """It could not be written, for a reason that is not its own: it is due again."""
        subject = self._subjects.get(key)
        if subject is not None:
            subject.next_at, subject.attempts = 0.0, max(subject.attempts - 1, 0)

    def news(self, now: float) -> Iterator[tuple[K, Condition, bool]]:
        """What somebody should hear of, each once, and whether it was well before; not what changes all the time."""
        for key, subject in self._subjects.items():
            said = _gist(subject.wanted)
            if said != subject.announced and self._is_settled(subject, now):
                was_well = subject.announced is not None and subject.announced[0]
                subject.announced = said
                yield key, subject.wanted, was_well

    def since(self, key: K) -> float | None:
        """Since when we have wanted to say the same of an object."""
        subject = self._subjects.get(key)
        return None if subject is None else subject.since

    def _is_settled(self, subject: _Subject, now: float) -> bool:
        return subject.wanted.holds or now >= subject.since + self._settle


def _gist(condition: Condition) -> tuple[bool, str]:
    return condition.holds, condition.reason


def _compare(subject: _Subject, is_said: bool, now: float) -> None:
    if not is_said:
        subject.right_since = None
        return
    if subject.right_since is None:
        subject.right_since = now
    elif now >= subject.right_since + STEADY_SECONDS:
        subject.attempts, subject.next_at = 0, 0.0


def _pause(attempts: int) -> float:
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(attempts, _MOST_DOUBLINGS), LONGEST_PAUSE_SECONDS)
