"""An immutable map that is cheap to change: a new one shares nearly everything with the old one."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Final, Generic, TypeVar, overload

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
D = TypeVar("D")

# A change copies one bucket and the list of buckets: with 20,000 entries 80 pairs and 256 pointers.
BUCKETS: Final = 256


class PersistentMap(Generic[K, V]):
    """Keys to values.  `with_` and `without` give a new map in a few microseconds, also among 20,000 entries."""

    __slots__ = ("_buckets", "_size")

    def __init__(self, pairs: Iterable[tuple[K, V]] = ()) -> None:
        """Of pairs with the same key the last counts."""
        buckets: list[dict[K, V]] = [{} for _ in range(BUCKETS)]
        for key, value in pairs:
            buckets[hash(key) % BUCKETS][key] = value
        self._buckets: tuple[Mapping[K, V], ...] = tuple(buckets)
        self._size = sum(map(len, buckets))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[K]:
        for bucket in self._buckets:
            yield from bucket

    def __contains__(self, key: K) -> bool:
        return key in self._buckets[hash(key) % BUCKETS]

    def values(self) -> Iterator[V]:
        """The values, in no order."""
        for bucket in self._buckets:
            yield from bucket.values()

    def items(self) -> Iterator[tuple[K, V]]:
        """Keys and values, in no order."""
        for bucket in self._buckets:
            yield from bucket.items()

    @overload
    def get(self, key: K) -> V | None: ...
    @overload
    def get(self, key: K, default: D) -> V | D: ...
    def get(self, key: K, default: object = None) -> object:
        """The value, or `default`."""
        return self._buckets[hash(key) % BUCKETS].get(key, default)

    def with_(self, key: K, value: V) -> "PersistentMap[K, V]":
        """A map with this value too."""
        return self._replaced(hash(key) % BUCKETS, {**self._buckets[hash(key) % BUCKETS], key: value})

    def without(self, key: K) -> "PersistentMap[K, V]":
        """A map without this key, which need not be there."""
        if key not in self:
            return self
        bucket = dict(self._buckets[hash(key) % BUCKETS])
        del bucket[key]
        return self._replaced(hash(key) % BUCKETS, bucket)

    def _replaced(self, number: int, bucket: Mapping[K, V]) -> "PersistentMap[K, V]":
        new: PersistentMap[K, V] = PersistentMap.__new__(PersistentMap)
        new._buckets = (*self._buckets[:number], bucket, *self._buckets[number + 1 :])
        new._size = self._size + len(bucket) - len(self._buckets[number])
        return new
