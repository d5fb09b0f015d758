"""The same thing again and again: said once, and then now and then with how often it happened."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

MAX_REPEATS = 10_000


@dataclass(slots=True)
class _Said:
    at: float
    since: int = 0


class Repeats:
    """Remembers what was said within `seconds`, at most `limit` things; beyond, what is longest ago is forgotten."""

    def __init__(self, seconds: float, limit: int = MAX_REPEATS) -> None:
        self._seconds = seconds
        self._limit = limit
        self._said: OrderedDict[Hashable, _Said] = OrderedDict()

    def again(self, what: Hashable, now: float) -> int | None:
        """How often it happened since it was said, if it is to be said now; else None. Seconds are monotonic."""
        said = self._said.get(what)
        if said is not None and now - said.at < self._seconds:
            said.since += 1
            return None
        self._said.pop(what, None)
        self._said[what] = _Said(now)
        if len(self._said) > self._limit:
            self._said.popitem(last=False)
        return 0 if said is None else said.since
