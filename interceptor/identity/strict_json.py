"""Read and write JSON documents between authority and nodes: nothing twice, nothing unknown, everything bounded.

There is one spelling of each document (sorted keys, no spaces, ASCII), so that its hash can stand for it.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from interceptor.errors import InvalidInput, quoted

Json = Mapping[str, object]  # an object whose values this module can write

_INSTANT: Final = "%Y-%m-%dT%H:%M:%S.%fZ"


def canonical(document: Json) -> bytes:
    """The one spelling of a document."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def instant_text(instant: datetime) -> str:
    """An aware instant as RFC 3339 in UTC, with microseconds."""
    return instant.astimezone(UTC).strftime(_INSTANT)


def parse_instant(text: str) -> datetime:
    """What `instant_text` wrote, and nothing else; raises InvalidInput."""
    try:
        instant = datetime.strptime(text, _INSTANT).replace(tzinfo=UTC)
    except ValueError:
        instant = None
    if instant is None or instant_text(instant) != text:
        raise InvalidInput(f"{quoted(text)} is not a time such as 2026-01-31T12:00:00.000000Z")
    return instant


class Fields:
    """One object of a document, taken apart field by field; every failure is InvalidInput naming the field."""

    def __init__(self, what: str, value: object, *names: str, optional: tuple[str, ...] = ()) -> None:
        """Check that `value` is an object with exactly the fields `names`; `what` is it for messages.

        `optional` fields came with a later version: who has nothing to say in one leaves it out, and so does who does
        not know it.
        """
        if not isinstance(value, dict):
            raise InvalidInput(f"{what} is not a JSON object")
        if unknown := sorted(set(value) - {*names, *optional}):
            raise InvalidInput(f"{what} has the unknown field {quoted(unknown[0])}")
        if missing := [name for name in names if name not in value]:
            raise InvalidInput(f"{what} lacks the field {missing[0]}")
        self._what = what
        self._values: dict[str, Any] = value

    def text(self, name: str, limit: int) -> str:
        """A string of at most `limit` characters."""
        value = self._values[name]
        if not isinstance(value, str) or len(value) > limit:
            self._refuse(name, f"a text of at most {limit} characters")
        return value

    def optional_text(self, name: str, limit: int) -> str:
        """A string of at most `limit` characters, empty when the field is not there."""
        return self.text(name, limit) if name in self._values else ""

    def secret(self, name: str, limit: int) -> str:
        """A string that no message shows."""
        value = self._values[name]
        if not isinstance(value, str) or len(value) > limit:
            raise InvalidInput(f"{self._what}: {name} is no text of at most {limit} characters")
        return value

    def number(self, name: str, lowest: int, highest: int) -> int:
        """A whole number from `lowest` to `highest`."""
        value = self._values[name]
        if type(value) is not int or not lowest <= value <= highest:
            self._refuse(name, f"a whole number from {lowest} to {highest}")
        return value

    def instant(self, name: str) -> datetime:
        """A time as `instant_text` writes it."""
        return parse_instant(self.text(name, 40))

    def array(self, name: str, limit: int) -> list[object]:
        """A list of at most `limit` values of any kind."""
        value = self._values[name]
        if not isinstance(value, list) or len(value) > limit:
            self._refuse(name, f"a list of at most {limit} values")
        return value

    def texts(self, name: str, limit: int, characters: int) -> tuple[str, ...]:
        """A list of at most `limit` strings of at most so many characters."""
        values = [
            value for value in self.array(name, limit) if isinstance(value, str) and len(value) <= characters
        ]
        if len(values) != len(self._values[name]):
            self._refuse(name, f"a list of texts of at most {characters} characters")
        return tuple(values)

    def mapping(self, name: str, limit: int, characters: int) -> dict[str, str]:
        """An object of at most `limit` strings, names and values of at most so many characters."""
        value = self._values[name]
        if not isinstance(value, dict) or len(value) > limit:
            self._refuse(name, f"an object of at most {limit} fields")
        if not all(
            isinstance(text, str) and len(key + text) <= 2 * characters for key, text in value.items()
        ):
            self._refuse(name, f"an object of texts of at most {characters} characters")
        return value

    def value(self, name: str) -> object:
        """Whatever is there, to be taken apart by its own reader."""
        return self._values[name]

    def _refuse(self, name: str, expected: str) -> NoReturn:
        raise InvalidInput(f"{self._what}: {name} is {quoted(self._values[name])}, expected {expected}")


def parse(what: str, data: bytes, limit: int) -> object:
    """Bytes to the value that they spell; raises InvalidInput for more than `limit` bytes and for all that is no JSON."""
    if len(data) > limit:
        raise InvalidInput(f"{what} has {len(data)} bytes, at most {limit} are allowed")
    try:
        return json.loads(data, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{what} is not valid JSON") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a field stands twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
