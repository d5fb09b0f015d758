"""Find the first policy that matches a connection, by hashing instead of scanning.

Each rule is filed under the patterns of one of its fields, the one whose values the fewest other rules share. A
connection is looked up once for each kind and length of pattern that occurs (an exact principal, prefixes of twelve
characters, networks of sixteen bits), and what is found there is then matched as a whole. A rule whose fields are all
negative can only be tried; such rules are kept in a list of their own.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from interceptor.labels import Labels
from interceptor.policy.documents import AuthorizationPolicy, Clause, Rule
from interceptor.policy.matching import Attribute, Facts, Projection, project
from interceptor.policy.scope import selects

Shape = tuple[Attribute, Projection, int]
Key = tuple[Shape, str | int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One rule of one policy; `order` is the policy's, the smaller one is the one that is named."""

    order: int
    policy: AuthorizationPolicy
    rule: Rule


@dataclass(frozen=True, slots=True)
class RuleIndex:
    """The rules of policies of one action."""

    _shapes: tuple[tuple[Shape, dict[str | int, tuple[Entry, ...]]], ...]
    _others: tuple[Entry, ...]

    @classmethod
    def of(cls, policies: Iterable[tuple[int, AuthorizationPolicy]]) -> Self:
        """Index the policies, which come in their order, each with its number in the whole set."""
        entries = [Entry(order, policy, rule) for order, policy in policies for rule in policy.rules]
        frequency = Counter(
            key for entry in entries for clause in entry.rule.clauses for key in _keys(clause)
        )
        filed: dict[Shape, dict[str | int, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        others = []
        for entry in entries:
            keys = _best_keys(entry.rule, frequency)
            if keys is None:
                others.append(entry)
            for shape, value in keys or ():
                filed[shape][value].append(entry)
        shapes = tuple(
            (shape, {value: tuple(found) for value, found in by_value.items()})
            for shape, by_value in filed.items()
        )
        return cls(shapes, tuple(others))

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

    def _candidates(self, facts: Facts) -> Iterator[tuple[Entry, ...]]:
        for (attribute, projection, length), by_value in self._shapes:
            value = facts.values[attribute]
            if value is not None:
                found = by_value.get(project(projection, length, value))
                if found:
                    yield found
        if self._others:
            yield self._others


def _keys(clause: Clause) -> set[Key]:
    """Everything that a rule could be filed under for the sake of this clause."""
    return {
        ((match.attribute, pattern.projection, pattern.length), pattern.key)
        for alternative in clause
        for match in alternative
        for pattern in match.patterns
    }


def _best_keys(rule: Rule, frequency: Counter[Key]) -> set[Key] | None:
    """The keys to file a rule under: a connection that matches it has at least one; None when there are none such."""
    best, best_cost = None, 0
    for clause in rule.clauses:
        chosen = _chosen_keys(clause, frequency)
        if chosen is None:
            continue
        cost = max(frequency[key] for key in chosen)
        if best is None or cost < best_cost:
            best, best_cost = chosen, cost
    return best


def _chosen_keys(clause: Clause, frequency: Counter[Key]) -> set[Key] | None:
    """For each alternative the rarest of its fields with positive patterns; None when an alternative has none."""
    chosen: set[Key] = set()
    for alternative in clause:
        fields = [_keys(((match,),)) for match in alternative if match.patterns]
        if not fields:
            return None
        chosen |= min(fields, key=lambda keys: max(frequency[key] for key in keys))
    return chosen
