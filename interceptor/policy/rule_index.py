"""Find the first policy that matches a connection, by hashing instead of scanning.

Each rule is filed under the patterns of one of its fields, the one whose values the fewest other rules share. A
connection is looked up once for each kind and length of pattern that occurs (an exact principal, prefixes of twelve
characters, networks of sixteen bits), and what is found there is then matched as a whole. Rules whose fields are all
negative are kept by what they exclude, and tried unless the connection has that.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from interceptor.labels import Labels
from interceptor.policy.documents import AuthorizationPolicy, Rule
from interceptor.policy.filing import Excluded, Key, Place, Shape, file_rules
from interceptor.policy.matching import Facts, project
from interceptor.policy.packed_rules import PackedRules
from interceptor.policy.scope import selects


@dataclass(slots=True)
class Entry:
    """One rule of one policy; `order` is the policy's, the smaller one is the one that is named."""

    order: int
    policy: AuthorizationPolicy
    number: int
    _rule: Rule | None = None

    @property
    def rule(self) -> Rule:
        """The rule, which is unpacked when it is needed for the first time."""
        if self._rule is None:
            self._rule = self.policy.rules[self.number]
        return self._rule


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """The rules of policies of one action."""

    _shapes: tuple[tuple[Shape, dict[str | int, list[Entry]]], ...]
    _excluding: tuple[tuple[Key | None, list[Entry]], ...]  # None: those that can only be tried

    @classmethod
    def of(cls, policies: Iterable[tuple[int, AuthorizationPolicy]]) -> Self:
        """Index the policies, which come in their order, each with its number in the whole set."""
        entries: list[Entry] = []
        filed: list[Place] = []
        unfiled: list[tuple[int, Rule]] = []
        for order, policy in policies:
            if isinstance(policy.rules, PackedRules):
                entries += [Entry(order, policy, number) for number in range(len(policy.rules))]
                filed += policy.rules.keys
            else:
                unfiled += enumerate(policy.rules, len(entries))
                entries += [Entry(order, policy, number, rule) for number, rule in enumerate(policy.rules)]
                filed += [None] * len(policy.rules)
        if unfiled:
            places, rules = zip(*unfiled, strict=True)
            for place, keys in zip(places, file_rules(rules, filed), strict=True):
                filed[place] = keys
        return cls._filed(entries, filed)

    @classmethod
    def _filed(cls, entries: list[Entry], filed: list[Place]) -> Self:
        shapes: dict[Shape, dict[str | int, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        excluding: dict[Key | None, list[Entry]] = defaultdict(list)
        for entry, place in zip(entries, filed, strict=True):
            if place is None or isinstance(place, Excluded):
                excluding[place and place.key].append(entry)
            else:
                for shape, value in place:
                    shapes[shape][value].append(entry)
        return cls(
            tuple((shape, dict(by_value)) for shape, by_value in shapes.items()), tuple(excluding.items())
        )

    def first_match(self, facts: Facts, labels: Labels) -> tuple[int, AuthorizationPolicy] | None:
        """The first policy, in the order of the set, that selects such a workload and matches the connection."""
        best: Entry | None = None
        for candidates in self._candidates(facts):
            for entry in candidates:
                if best is not None and entry.order >= best.order:
                    break
                if selects(entry.policy, labels) and entry.rule.matches(facts):
                    best = entry
                    break
        return None if best is None else (best.order, best.policy)

    def _candidates(self, facts: Facts) -> Iterator[Iterable[Entry]]:
        for (attribute, projection, length), by_value in self._shapes:
            value = facts.values[attribute]
            if value is not None:
                found = by_value.get(project(projection, length, value))
                if found:
                    yield found
        for key, entries in self._excluding:
            if key is None or not _has(facts, key):
                yield entries


def _has(facts: Facts, key: Key) -> bool:
    (attribute, projection, length), wanted = key
    value = facts.values[attribute]
    return value is not None and project(projection, length, value) == wanted
