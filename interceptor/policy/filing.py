"""Under which keys a rule is filed: those of one of its fields, the one whose values the fewest other rules share.

A connection that matches a rule has at least one of its keys, so any choice is right; the rarest is looked at least. A
rule that only excludes is filed under one of the keys that it excludes: a connection that has that key does not match it.
There the most frequent is best, since so many rules can be passed over at once.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from interceptor.policy.documents import Clause, Rule
from interceptor.policy.matching import Attribute, Projection

Shape = tuple[Attribute, Projection, int]
Key = tuple[Shape, str | int]
Keys = tuple[Key, ...]


class Excluded(NamedTuple):
    """The key that whatever matches a rule does not have."""

    key: Key


Place = Keys | Excluded | None  # None: the rule can only be tried


def file_rules(rules: Sequence[Rule], others: Iterable[Place] = ()) -> list[Place]:
    """Where each rule is to be filed; `others` are the places of rules that are filed already."""
    frequency: Counter[Key] = Counter()
    candidates = [[_candidates(clause) for clause in rule.clauses] for rule in rules]
    for clauses in candidates:
        for clause in clauses:
            frequency.update({key for fields in clause for keys in fields for key in keys})
    for place in others:
        frequency.update((place.key,) if isinstance(place, Excluded) else place or ())
    found: list[Place] = [_rarest(clauses, frequency) for clauses in candidates]
    missing = {number: list(_exclusions(rules[number])) for number, keys in enumerate(found) if keys is None}
    frequency.update(key for keys in missing.values() for key in keys)
    for number, keys in missing.items():
        if keys:
            found[number] = Excluded(max(keys, key=frequency.__getitem__))
    return found


def _exclusions(rule: Rule) -> Iterator[Key]:
    """The keys none of which a connection has that matches the rule."""
    for clause in rule.clauses:
        if len(clause) == 1:  # of several alternatives another one may match
            for match in clause[0]:
                for pattern in match.not_patterns:
                    yield (match.attribute, pattern.projection, pattern.length), pattern.key


def _candidates(clause: Clause) -> list[list[Keys]]:
    """For each alternative, the keys of each of its fields that has positive patterns."""
    return [
        [
            tuple(
                [
                    ((match.attribute, pattern.projection, pattern.length), pattern.key)
                    for pattern in match.patterns
                ]
            )
            for match in alternative
            if match.patterns
        ]
        for alternative in clause
    ]


def _rarest(clauses: list[list[list[Keys]]], frequency: Counter[Key]) -> Keys | None:
    best, best_cost = None, 0
    for clause in clauses:
        if not all(clause):
            continue  # an alternative without positive patterns may match anything
        chosen = {key for fields in clause for key in _cheapest(fields, frequency)}
        cost = max(frequency[key] for key in chosen)
        if best is None or cost < best_cost:
            best, best_cost = chosen, cost
    return None if best is None else tuple(best)


def _cheapest(fields: list[Keys], frequency: Counter[Key]) -> Keys:
    if len(fields) == 1:
        return fields[0]
    return min(fields, key=lambda keys: max(frequency[key] for key in keys))
