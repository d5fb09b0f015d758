"""Find the rules that match a connection among many that share a key: by sets of bits, a bit for each rule.

For each attribute that rules speak of, the connection has some of their patterns. Those of the rules that want one of
them, and those that want none, remain; those that exclude one of them go. A set of sixteen thousand rules is one number, so
that this takes a fraction of a microsecond for each, whatever the rules have in common.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Self, TypeVar

from interceptor.labels import Labels
from interceptor.policy.documents import FieldMatch, Rule
from interceptor.policy.matching import Attribute, Facts, Pattern, Projection
from interceptor.policy.pattern_table import PatternTable
from interceptor.policy.remembered import Remembered

BLOCK: Final = 16_384  # rows whose bits are one number
MOST_ROWS: Final = 16  # of one rule; what would need more is left to the rule itself
SPARSE: Final = 16  # rows that are not worth a set of their own

E = TypeVar("E")
Bits = dict[int, int]  # by the number of the block; what is not there is 0
Slot = tuple[Attribute, int]  # an attribute of which a rule speaks for the first, second, ... time
_Wanted = tuple[Slot, Projection, int, str | int]


@dataclass(frozen=True, slots=True)
class _Rows:
    """A set of rows: as they are when they are few, as bits when they are many."""

    few: tuple[int, ...]
    many: Bits

    @classmethod
    def of(cls, rows: Sequence[int]) -> Self:
        return cls(tuple(rows), {}) if len(rows) <= SPARSE else cls((), _bits(rows))

    def bits(self) -> Bits:
        return self.many or _bits(self.few)


@dataclass(frozen=True, slots=True)
class _Wants:
    """What rows want of one attribute: those that want nothing of it, and the others by what they want."""

    attribute: Attribute
    free: Bits
    wanted: PatternTable[_Rows]

    def allowed(self, facts: Facts) -> list[Bits]:
        return [self.free, *(rows.bits() for rows in self.wanted.found(facts.values[self.attribute]))]


@dataclass(frozen=True, slots=True)
class RuleGrid(Generic[E]):
    """Rules, each with whatever it stands for, in their order."""

    _entries: tuple[E, ...]  # of each row
    _wants: tuple[_Wants, ...]
    _excludes: tuple[tuple[Attribute, PatternTable[_Rows]], ...]
    _selectors: tuple[tuple[Labels, Bits], ...]
    _selected: Remembered[Labels, Bits] = field(default_factory=Remembered, compare=False, repr=False)

    @classmethod
    def of(cls, rules: Iterable[tuple[E, Rule, Labels]]) -> Self:
        """Each with the labels that a workload needs for it."""
        entries: list[E] = []
        wanted: dict[_Wanted, list[int]] = defaultdict(list)
        wanting: dict[Slot, list[int]] = defaultdict(list)
        excluded: dict[_Wanted, list[int]] = defaultdict(list)
        selectors: dict[Labels, list[int]] = defaultdict(list)
        for entry, rule, selector in rules:
            for matches in _rows(rule):
                row = len(entries)
                entries.append(entry)
                selectors[selector].append(row)
                for slot, match in _with_slots(matches):
                    if match.patterns:
                        wanting[slot].append(row)
                        _file(wanted, slot, match.patterns, row)
                    _file(excluded, (match.attribute, 0), match.not_patterns, row)
        every = _bits(range(len(entries)))
        tables, exclusions = _tables(wanted), _tables(excluded)
        return cls(
            tuple(entries),
            tuple(_Wants(slot[0], _without(every, rows), tables[slot]) for slot, rows in wanting.items()),
            tuple((slot[0], table) for slot, table in exclusions.items()),
            tuple((selector, _bits(rows)) for selector, rows in selectors.items()),
        )

    def candidates(self, facts: Facts, labels: Labels) -> Iterator[E]:
        """Those that may match, in their order, of policies that select such a workload: nearly always those that do."""
        selected = self._selected.get(labels, lambda: self._selecting(labels))
        wants = [each.allowed(facts) for each in self._wants]
        excludes = [
            rows.bits()
            for attribute, table in self._excludes
            for rows in table.found(facts.values[attribute])
        ]
        for block in sorted(selected):
            out = 0
            for bits in excludes:
                out |= bits.get(block, 0)
            left = selected[block] & ~out
            for allowed in wants:
                if not left:
                    break
                union = 0
                for bits in allowed:
                    union |= bits.get(block, 0)
                left &= union
            while left:
                lowest = left & -left
                yield self._entries[block * BLOCK + lowest.bit_length() - 1]
                left ^= lowest

    def _selecting(self, labels: Labels) -> Bits:
        """The rows of policies that select such a workload."""
        found: Bits = {}
        for selector, bits in self._selectors:
            if selector.pairs <= labels.pairs:
                for block, more in bits.items():
                    found[block] = found.get(block, 0) | more
        return found


def _rows(rule: Rule) -> list[tuple[FieldMatch, ...]]:
    """The fields that all have to match, for each way to choose an alternative of each clause."""
    rows: list[tuple[FieldMatch, ...]] = [()]
    for clause in sorted(rule.clauses, key=len):
        if len(rows) * len(clause) > MOST_ROWS:
            break
        rows = [(*row, *alternative) for row in rows for alternative in clause]
    return rows


def _with_slots(matches: Iterable[FieldMatch]) -> Iterator[tuple[Slot, FieldMatch]]:
    times: dict[Attribute, int] = defaultdict(int)
    for match in matches:
        yield (match.attribute, times[match.attribute]), match
        times[match.attribute] += 1


def _file(found: dict[_Wanted, list[int]], slot: Slot, patterns: Iterable[Pattern], row: int) -> None:
    for pattern in patterns:
        rows = found[slot, pattern.projection, pattern.length, pattern.key]
        if not rows or rows[-1] != row:
            rows.append(row)


def _tables(filed: dict[_Wanted, list[int]]) -> dict[Slot, PatternTable[_Rows]]:
    by_slot: dict[Slot, list[tuple[Projection, int, str | int, _Rows]]] = defaultdict(list)
    for (slot, projection, length, key), rows in filed.items():
        by_slot[slot].append((projection, length, key, _Rows.of(rows)))
    return {slot: PatternTable.of(things) for slot, things in by_slot.items()}


def _bits(rows: Iterable[int]) -> Bits:
    found: Bits = {}
    for row in rows:
        block, place = divmod(row, BLOCK)
        found[block] = found.get(block, 0) | 1 << place
    return found


def _without(every: Bits, rows: Sequence[int]) -> Bits:
    some = _bits(rows)
    return {block: bits & ~some.get(block, 0) for block, bits in every.items()}
