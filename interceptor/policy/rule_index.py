"""Find the first document that has a rule for a connection, by hashing instead of scanning.

Each rule is filed under the patterns of one of its fields, the one whose values the fewest other rules share. A
connection is looked up once for each kind and length of pattern that occurs (an exact principal, prefixes of twelve
characters, networks of sixteen bits), and what is found there is then matched as a whole. Where many are filed together,
and where all those are that only exclude, a `rule_grid` finds those that match.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Self, TypeVar

from interceptor.labels import Labels
from interceptor.policy.documents import Rule
from interceptor.policy.filing import Key, Keys, file_rules
from interceptor.policy.matching import Attribute, Facts
from interceptor.policy.packed_rules import PackedRules
from interceptor.policy.pattern_table import PatternTable
from interceptor.policy.rule_grid import RuleGrid
from interceptor.policy.scope import HasHead, selects

FEW: Final = 16  # rules that are matched one after the other

D = TypeVar("D", bound=HasHead)


@dataclass(slots=True)
class Entry(Generic[D]):
    """One rule of one document; `order` is the document's, the smaller one is the one that is named."""

    order: int
    document: D
    rules: Sequence[Rule]
    number: int
    _rule: Rule | None = None

    @property
    def rule(self) -> Rule:
        """The rule, which is unpacked when it is needed for the first time."""
        if self._rule is None:
            self._rule = self.rules[self.number]
        return self._rule


@dataclass(frozen=True, slots=True)
class RuleIndex(Generic[D]):
    """Documents with rules, which are there for one purpose."""

    _filed: tuple[tuple[Attribute, PatternTable[list[Entry[D]] | RuleGrid[Entry[D]]]], ...]
    _others: list[Entry[D]] | RuleGrid[Entry[D]]

    @classmethod
    def of(cls, documents: Iterable[tuple[int, D, Sequence[Rule]]]) -> Self:
        """Index the documents, which come in their order, each with its number in the whole set and its rules."""
        entries: list[Entry[D]] = []
        filed: list[Keys | None] = []
        unfiled: list[tuple[int, Rule]] = []
        for order, document, rules in documents:
            if isinstance(rules, PackedRules):
                entries += [Entry(order, document, rules, number) for number in range(len(rules))]
                filed += rules.keys
            else:
                unfiled += enumerate(rules, len(entries))
                entries += [Entry(order, document, rules, number, rule) for number, rule in enumerate(rules)]
                filed += [None] * len(rules)
        if unfiled:
            places, loose = zip(*unfiled, strict=True)
            for place, keys in zip(places, file_rules(loose, filed), strict=True):
                filed[place] = keys
        return cls._of_filed(entries, filed)

    @classmethod
    def _of_filed(cls, entries: list[Entry[D]], filed: list[Keys | None]) -> Self:
        by_key: dict[Key, list[Entry[D]]] = defaultdict(list)
        others = []
        for entry, keys in zip(entries, filed, strict=True):
            if keys is None:
                others.append(entry)
            else:
                for key in keys:
                    by_key[key].append(entry)
        by_attribute = defaultdict(list)
        for ((attribute, projection, length), value), found in by_key.items():
            by_attribute[attribute].append((projection, length, value, _gathered(found)))
        tables = [(attribute, PatternTable.of(things)) for attribute, things in by_attribute.items()]
        return cls(tuple(tables), _gathered(others))

    def first_match(
        self, facts: Facts, labels: Labels, holds: Callable[[D], bool] = lambda _: True
    ) -> tuple[int, D] | None:
        """The first document, in the order of the set, that selects such a workload and has a rule that matches.

        `holds` may say of some that they do not count; it is asked last.
        """
        best: Entry[D] | None = None
        for candidates in self._candidates(facts, labels):
            for entry in candidates:
                if best is not None and entry.order >= best.order:
                    break
                if selects(entry.document, labels) and entry.rule.matches(facts) and holds(entry.document):
                    best = entry
                    break
        return None if best is None else (best.order, best.document)

    def _candidates(self, facts: Facts, labels: Labels) -> Iterator[Iterable[Entry[D]]]:
        for attribute, table in self._filed:
            for found in table.found(facts.values[attribute]):
                yield found if isinstance(found, list) else found.candidates(facts, labels)
        others = self._others
        if others:
            yield others if isinstance(others, list) else others.candidates(facts, labels)


def _gathered(entries: list[Entry[D]]) -> list[Entry[D]] | RuleGrid[Entry[D]]:
    """Rules that are filed together."""
    if len(entries) <= FEW:
        return entries
    return RuleGrid.of((entry, entry.rules[entry.number], entry.document.head.selector) for entry in entries)
