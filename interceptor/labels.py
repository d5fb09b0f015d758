"""Labels: the keys and values by which a policy selects workloads, with the rules that Kubernetes has for them."""

import re
from collections.abc import Iterator, Mapping
from typing import Final, Self

from interceptor.errors import InvalidInput, quoted

MAX_LABELS: Final = 64  # Kubernetes sets no such limit; a decision looks at each, so we do
MAX_NAME_LENGTH: Final = 63
MAX_PREFIX_LENGTH: Final = 253

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Labels(Mapping[str, str]):
    """An immutable, hashable mapping of labels; every instance is valid.

    Keys and values are as in kubernetes.io, "Labels and Selectors", "Syntax and character set": a key is a name of at
    most 63 characters, with an optional DNS name and '/' before it; a value is such a name, or empty.
    """

    __slots__ = ("_values", "pairs")

    pairs: frozenset[tuple[str, str]]

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        """Copy the mapping; raises InvalidInput for what Kubernetes would not take."""
        given = dict(values or {})
        if len(given) > MAX_LABELS:
            raise InvalidInput(f"there are {len(given)} labels, at most {MAX_LABELS} are allowed")
        for key, value in given.items():
            validate_label_key(key)
            validate_label_value(key, value)
        self._values = {key: given[key] for key in sorted(given)}
        self.pairs = frozenset(given.items())

    @classmethod
    def parse(cls, texts: tuple[str, ...]) -> Self:
        """`KEY=VALUE` texts to labels; raises InvalidInput, also when a key is there twice."""
        values: dict[str, str] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals:
                raise InvalidInput(f"{quoted(text)} is not a label, expected KEY=VALUE such as app=web")
            if key in values:
                raise InvalidInput(f"label {quoted(key)} is there twice, remove one")
            values[key] = value
        return cls(values)

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __eq__(self, other: object) -> bool:
        return self.pairs == other.pairs if isinstance(other, Labels) else NotImplemented

    def __str__(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self._values.items())

    def __repr__(self) -> str:
        return f"Labels({self._values!r})"


def validate_label_key(key: str) -> None:
    """Raise InvalidInput unless it is `name` or `prefix/name`."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > MAX_PREFIX_LENGTH or not _PREFIX.fullmatch(prefix)):
        raise InvalidInput(
            f"label key {quoted(key)} has no DNS name before the '/', such as example.com/name"
        )
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"label key {quoted(key)} is not valid, use at most {MAX_NAME_LENGTH} letters, digits, '-', '_' and '.', "
            "beginning and ending with a letter or digit"
        )


def validate_label_value(key: str, value: str) -> None:
    """Raise InvalidInput unless it is empty or a name of at most 63 characters."""
    if value and (len(value) > MAX_NAME_LENGTH or not _NAME.fullmatch(value)):
        raise InvalidInput(
            f"label {quoted(key)} has the value {quoted(value)}, use at most {MAX_NAME_LENGTH} letters, digits, '-', "
            "'_' and '.', beginning and ending with a letter or digit"
        )


NO_LABELS: Final = Labels()
