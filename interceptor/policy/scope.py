"""Find the documents that apply to a workload without looking at all of them.

"Authorization Policy scope (target) is determined by metadata/namespace and an optional selector. If set to root
namespace, the policy applies to all namespaces in a mesh." (AuthorizationPolicy). A document with a selector is filed
under one pair of its labels, the one that the fewest others have; a workload looks below each of its own pairs.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from interceptor.labels import Labels
from interceptor.policy.documents import Head


class HasHead(Protocol):
    """Any document."""

    @property
    def head(self) -> Head: ...


D = TypeVar("D", bound=HasHead)
G = TypeVar("G")
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Scope(Generic[G]):
    """Groups of documents, by namespace and by a pair of labels (None: those without a selector)."""

    _groups: Mapping[str, Mapping[Pair | None, G]]
    _root: str

    @classmethod
    def of(cls, documents: Iterable[D], root: str, make_group: Callable[[tuple[D, ...]], G]) -> Self:
        """File documents, in the order in which they are given, into groups that `make_group` makes."""
        by_namespace: dict[str, list[D]] = defaultdict(list)
        for document in documents:
            by_namespace[document.head.name.namespace].append(document)
        return cls({name: _group(found, make_group) for name, found in by_namespace.items()}, root)

    def around(self, namespace: str, labels: Labels) -> tuple[G, ...]:
        """The groups in which everything is that may apply to such a workload: the root's, then its namespace's.

        In no order that means anything, and their documents may still select other labels.
        """
        names = (self._root,) if namespace == self._root else (self._root, namespace)
        found = []
        for name in names:
            groups = self._groups.get(name)
            if groups:
                found += [groups[pair] for pair in (None, *labels.pairs) if pair in groups]
        return tuple(found)


def _group(documents: list[D], make_group: Callable[[tuple[D, ...]], G]) -> dict[Pair | None, G]:
    frequency = Counter(pair for document in documents for pair in document.head.selector.pairs)
    groups: dict[Pair | None, list[D]] = defaultdict(list)
    for document in documents:
        pairs = document.head.selector.pairs
        groups[min(pairs, key=lambda pair: (frequency[pair], pair)) if pairs else None].append(document)
    return {pair: make_group(tuple(found)) for pair, found in groups.items()}


def selects(document: HasHead, labels: Labels) -> bool:
    """Whether a workload has all the labels that a document wants."""
    return document.head.selector.pairs <= labels.pairs
