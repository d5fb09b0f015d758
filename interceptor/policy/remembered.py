"""What is found out once for each of a bounded number of keys."""

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

MOST: Final = 1024

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """Values that follow from their keys and from what never changes; all are forgotten when they become too many."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[K, V] = {}

    def get(self, key: K, find_out: Callable[[], V]) -> V:
        """The value of a key, found out if it is not known."""
        try:
            return self._values[key]
        except KeyError:
            pass
        if len(self._values) >= MOST:
            self._values = {}
        value = self._values[key] = find_out()
        return value
