"""The objects of one kind: lists and events, also repeated, late and in the wrong order, end at the API's state."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Generic, Protocol, TypeVar

from interceptor.cluster.head import Head, ObjectKey
from interceptor.cluster.persistent_map import PersistentMap

# Of removed objects the last versions are remembered, so that a late event does not bring one back; in two halves,
# of which the older is forgotten when the younger has so many.
REMEMBERED_REMOVALS: Final = 2048


class ApiObject(Protocol):
    """What an object of every kind has."""

    @property
    def head(self) -> Head: ...


T = TypeVar("T", bound=ApiObject)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An object of which only the head can be used, and why."""

    head: Head
    problem: str


@dataclass(frozen=True, slots=True)
class Table(Generic[T]):
    """An immutable snapshot; the methods give the next one.

    `keys_of` says under which keys an object is found by `find`. An object that can no longer be read stays as it was
    when it could be, with its problem beside it, unless its place was taken by another one (UID): what is not known
    must not pass for what was there.
    """

    keys_of: Callable[[T], Iterable[Hashable]]
    floor: int = 0  # the version of the last list: no event up to it has news
    is_listed: bool = False
    objects: PersistentMap[ObjectKey, T] = field(default_factory=PersistentMap)
    unreadable: PersistentMap[ObjectKey, Unreadable] = field(default_factory=PersistentMap)
    _index: PersistentMap[Hashable, frozenset[ObjectKey]] = field(default_factory=PersistentMap)
    _removed: PersistentMap[ObjectKey, int] = field(default_factory=PersistentMap)
    _removed_before: PersistentMap[ObjectKey, int] = field(default_factory=PersistentMap)

    def __len__(self) -> int:
        return len(self.objects)

    def get(self, key: ObjectKey) -> T | None:
        """The object of that name."""
        return self.objects.get(key)

    def find(self, key: Hashable) -> tuple[T, ...]:
        """The objects that `keys_of` puts under this key, by name."""
        names = self._index.get(key, frozenset[ObjectKey]())
        found = (self.objects.get(name) for name in sorted(names))
        return tuple(each for each in found if each is not None)

    def listed(self, version: int, objects: Iterable[T], unreadable: Iterable[Unreadable] = ()) -> "Table[T]":
        """All objects of that version of the list: it counts against everything that was heard before."""
        problems = {each.head.key: each for each in unreadable}
        kept = [found for each in problems.values() if (found := self._last_good(each.head)) is not None]
        everything = PersistentMap((each.head.key, each) for each in (*kept, *objects))
        index: dict[Hashable, frozenset[ObjectKey]] = {}
        for each in everything.values():
            for key in self.keys_of(each):
                index[key] = index.get(key, frozenset()) | {each.head.key}
        return Table(
            self.keys_of,
            version,
            is_listed=True,
            objects=everything,
            unreadable=PersistentMap(problems.items()),
            _index=PersistentMap(index.items()),
        )

    def with_object(self, new: T) -> "Table[T]":
        """The object was added or changed."""
        key = new.head.key
        if new.head.version <= self._known_version(key):
            return self
        changed = self._replaced(key, new)
        return replace(changed, unreadable=changed.unreadable.without(key))

    def with_unreadable(self, new: Unreadable) -> "Table[T]":
        """The object was added or changed to something that cannot be read."""
        key = new.head.key
        if new.head.version <= self._known_version(key):
            return self
        changed = self._replaced(key, self._last_good(new.head))
        return replace(changed, unreadable=changed.unreadable.with_(key, new))

    def without(self, head: Head) -> "Table[T]":
        """The object was removed."""
        key = head.key
        if head.version <= self.floor or head.version < self._known_version(key):
            return self
        changed = self._replaced(key, None)
        removed, before = self._removed.with_(key, head.version), self._removed_before
        if len(removed) >= REMEMBERED_REMOVALS:
            removed, before = PersistentMap[ObjectKey, int](), removed
        return replace(
            changed, unreadable=changed.unreadable.without(key), _removed=removed, _removed_before=before
        )

    def _last_good(self, head: Head) -> T | None:
        known = self.objects.get(head.key)
        return known if known is not None and known.head.uid == head.uid else None

    def _known_version(self, key: ObjectKey) -> int:
        """The newest version of this object that was heard of, also when it was its removal."""
        known, problem = self.objects.get(key), self.unreadable.get(key)
        return max(
            self.floor,
            known.head.version if known is not None else 0,
            problem.head.version if problem is not None else 0,
            self._removed.get(key, 0),
            self._removed_before.get(key, 0),
        )

    def _replaced(self, key: ObjectKey, new: T | None) -> "Table[T]":
        old = self.objects.get(key)
        before = set(self.keys_of(old)) if old is not None else set()
        after = set(self.keys_of(new)) if new is not None else set()
        index = self._index
        for gone in before - after:
            names = index.get(gone, frozenset[ObjectKey]()) - {key}
            index = index.with_(gone, names) if names else index.without(gone)
        for added in after - before:
            index = index.with_(added, index.get(added, frozenset[ObjectKey]()) | {key})
        objects = self.objects.without(key) if new is None else self.objects.with_(key, new)
        return replace(self, objects=objects, _index=index)
