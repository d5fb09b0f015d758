"""Find what is filed under the patterns that match a value, by one look for each kind and length of pattern."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from interceptor.policy.matching import Projection, Value, project

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class PatternTable(Generic[V]):
    """Things by patterns of one attribute."""

    _kinds: tuple[tuple[Projection, tuple[tuple[int, dict[str | int, V]], ...]], ...]

    @classmethod
    def of(cls, things: Iterable[tuple[Projection, int, str | int, V]]) -> Self:
        """File each thing under the kind, the length and the key of its pattern, which is there once."""
        kinds: dict[Projection, dict[int, dict[str | int, V]]] = defaultdict(lambda: defaultdict(dict))
        for projection, length, key, thing in things:
            kinds[projection][length][key] = thing
        return cls(
            tuple((projection, tuple(sorted(lengths.items()))) for projection, lengths in kinds.items())
        )

    def found(self, value: Value) -> list[V]:
        """What is filed under the patterns that match; nothing for no value."""
        if value is None:
            return []
        found = []
        longest = len(value) if isinstance(value, str) else 128
        for projection, lengths in self._kinds:
            for length, by_key in lengths:
                if length > longest:
                    break  # no part of the value is that long
                thing = by_key.get(project(projection, length, value))
                if thing is not None:
                    found.append(thing)
        return found
