"""Label selectors: what they match, and what can be said of two of them without knowing any pod.

Source: kubernetes.io, "Labels and Selectors", "Resources that support set-based requirements".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Operator(StrEnum):
    """How a requirement compares; `matchLabels` is IN with one value."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, value: str | None) -> bool:
        """Whether a label with this value, or None for no such label, fulfils it."""
        if self.operator is Operator.IN:
            return value in self.values
        if self.operator is Operator.NOT_IN:
            return value not in self.values
        return (value is not None) == (self.operator is Operator.EXISTS)

    def follows_from(self, other: "Requirement") -> bool:
        """Whether everything that fulfils `other` fulfils this; False when that is not certain."""
        if self == other:
            return True
        if self.key != other.key or other.operator is not Operator.IN:
            return False
        return all(self.matches(value) for value in other.values)

    def contradicts(self, other: "Requirement") -> bool:
        """Whether nothing can fulfil both; False when that is not certain."""
        if self.key != other.key:
            return False
        if Operator.IN in (self.operator, other.operator):
            listed, against = (self, other) if self.operator is Operator.IN else (other, self)
            return not any(against.matches(value) for value in listed.values)
        return {self.operator, other.operator} == {Operator.EXISTS, Operator.DOES_NOT_EXIST}

    def __str__(self) -> str:
        values = ", ".join(sorted(self.values))
        if self.operator is Operator.IN:
            return f"{self.key}={values}" if len(self.values) == 1 else f"{self.key} in ({values})"
        if self.operator is Operator.NOT_IN:
            return f"{self.key} not in ({values})"
        return self.key if self.operator is Operator.EXISTS else f"!{self.key}"


@dataclass(frozen=True, slots=True)
class Selector:
    """All of its requirements; without any it selects everything. `str(x)` is as kubectl's `-l` has it."""

    requirements: frozenset[Requirement] = frozenset()

    def could_match(self, labels: Mapping[str, str], *, are_all: bool) -> bool:
        """Whether it selects what has these labels; when they are not all, the others may be anything."""
        return all(
            requirement.matches(labels.get(requirement.key))
            for requirement in self.requirements
            if are_all or requirement.key in labels
        )

    def includes(self, other: "Selector") -> bool:
        """Whether it selects everything that `other` selects; False when that is not certain."""
        return all(
            any(requirement.follows_from(each) for each in other.requirements)
            for requirement in self.requirements
        )

    def could_overlap(self, other: "Selector") -> bool:
        """Whether something can be selected by both; True when that is not certain."""
        return not any(
            requirement.contradicts(each) for requirement in self.requirements for each in other.requirements
        )

    def demands(self, key: str, value: str) -> bool:
        """Whether it selects only what has this label."""
        return Requirement(key, Operator.IN, frozenset([value])) in self.requirements

    def as_labels(self) -> dict[str, str] | None:
        """The labels that it wants, None when it cannot be said by labels alone."""
        labels = {}
        for requirement in self.requirements:
            if requirement.operator is not Operator.IN or len(requirement.values) != 1:
                return None
            (labels[requirement.key],) = requirement.values
        return {key: labels[key] for key in sorted(labels)}

    def __str__(self) -> str:
        return ",".join(sorted(map(str, self.requirements)))


EVERYTHING: Final = Selector()
