"""Rules as bytes, and filed already: what other processes parse is cheap to hand over, to hold and to index.

A hundred thousand rules as values take a second to be sent between processes and a second to be indexed, while traffic
waits; of nearly all of them a connection never needs more than the key under which they are filed. So a rule is unpacked
when a connection gets to it.
"""

import marshal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, overload

from interceptor.policy.documents import AuthorizationPolicy, Document, FieldMatch, Rule
from interceptor.policy.filing import Keys, file_rules
from interceptor.policy.matching import Attribute, Pattern, Projection

_PROJECTIONS: Final = tuple(Projection)
_NUMBERS: Final = {projection: number for number, projection in enumerate(_PROJECTIONS)}
_ATTRIBUTES: Final = tuple(Attribute)
_MARSHAL_VERSION: Final = 2  # without references between objects, which depend on more than the values


@dataclass(frozen=True, slots=True, eq=False)
class PackedRules(Sequence[Rule]):
    """The rules of one policy; `keys` are those under which each is to be filed (see `filing`)."""

    packed: tuple[bytes, ...]
    keys: tuple[Keys | None, ...]

    def __len__(self) -> int:
        return len(self.packed)

    @overload
    def __getitem__(self, index: int) -> Rule: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Rule]: ...

    def __getitem__(self, index: int | slice) -> Rule | Sequence[Rule]:
        if isinstance(index, slice):
            return tuple(map(_unpack, self.packed[index]))
        return _unpack(self.packed[index])

    def __iter__(self) -> Iterator[Rule]:
        return map(_unpack, self.packed)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedRules) and self.packed == other.packed:
            return True
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))


def pack(documents: Iterable[Document]) -> tuple[Document, ...]:
    """The same documents, with the rules of AuthorizationPolicies packed; filed by what is frequent among them."""
    given = tuple(documents)
    rules = [rule for each in given if isinstance(each, AuthorizationPolicy) for rule in each.rules]
    keys = iter(file_rules(rules))
    return tuple(
        replace(each, rules=_packed(each.rules, keys)) if isinstance(each, AuthorizationPolicy) else each
        for each in given
    )


def _packed(rules: Sequence[Rule], keys: Iterator[Keys | None]) -> PackedRules:
    return PackedRules(
        tuple(marshal.dumps(_plain(rule), _MARSHAL_VERSION) for rule in rules),
        tuple(next(keys) for _ in rules),
    )


def _plain(rule: Rule) -> Any:  # noqa: ANN401 - tuples of tuples of what `marshal` takes
    return tuple(
        tuple(
            tuple(
                (int(match.attribute), match.field, _texts(match.patterns), _texts(match.not_patterns))
                for match in alternative
            )
            for alternative in clause
        )
        for clause in rule.clauses
    )


def _texts(patterns: tuple[Pattern, ...]) -> tuple[tuple[int, int, str | int, str], ...]:
    return tuple((_NUMBERS[each.projection], each.length, each.key, each.text) for each in patterns)


def _unpack(packed: bytes) -> Rule:
    # The bytes are always ours, of this very version: `pack` made them, in this process or in one that it started.
    clauses: Any = marshal.loads(packed)  # noqa: S302
    return Rule(
        tuple(
            tuple(
                tuple(
                    FieldMatch(_ATTRIBUTES[attribute], field, _patterns(values), _patterns(not_values))
                    for attribute, field, values, not_values in alternative
                )
                for alternative in clause
            )
            for clause in clauses
        )
    )


def _patterns(plain: tuple[tuple[int, int, str | int, str], ...]) -> tuple[Pattern, ...]:
    return tuple(Pattern(_PROJECTIONS[number], length, key, text) for number, length, key, text in plain)
