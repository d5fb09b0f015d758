"""Under which keys a rule is filed: those of one of its fields, the one whose values the fewest other rules share.

A connection that matches a rule has at least one of its keys, so any choice is right; the rarest is looked at least.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from interceptor.policy.documents import Clause, Rule
from interceptor.policy.matching import Attribute, Projection

Shape = tuple[Attribute, Projection, int]
Key = tuple[Shape, str | int]
Keys = tuple[Key, ...]


def file_rules(rules: Sequence[Rule], others: Iterable[Keys | None] = ()) -> list[Keys | None]:
    """The keys of each rule, None for one that can only be tried; `others` are those of rules that are filed already."""
    frequency: Counter[Key] = Counter()
    candidates = [[_candidates(clause) for clause in rule.clauses] for rule in rules]
    for clauses in candidates:
        for clause in clauses:
            frequency.update([key for fields in clause for keys in fields for key in keys])
    for keys in others:
        frequency.update(keys or ())
    return [_rarest(clauses, frequency) for clauses in candidates]


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
    best: Keys | None = None
    best_cost = 0
    for clause in clauses:
        if not all(clause):
            continue  # an alternative without positive patterns may match anything
        chosen = [
            min(fields, key=lambda keys: _cost(keys, frequency)) if len(fields) > 1 else fields[0]
            for fields in clause
        ]
        cost = max([_cost(keys, frequency) for keys in chosen])
        if best is None or cost < best_cost:
            best = chosen[0] if len(chosen) == 1 else tuple({key for keys in chosen for key in keys})
            best_cost = cost
    return best


def _cost(keys: Keys, frequency: Counter[Key]) -> int:
    return frequency[keys[0]] if len(keys) == 1 else max([frequency[key] for key in keys])
