"""Take JSON objects of the Kubernetes API apart: bounded and typed, and blind to fields that we do not know."""

from typing import Any, Final, NoReturn, Self

from interceptor.errors import InvalidInput, quoted

MAX_NAME: Final = 253  # kubernetes.io, "Object Names and IDs": the longest of them, a DNS subdomain


class Fields:
    """One object, field by field; every failure is InvalidInput naming object and field.

    Unknown fields are ignored, since newer servers have more, and null is the same as absent ("API Conventions").
    """

    __slots__ = ("_values", "_what")

    def __init__(self, what: str, value: object) -> None:
        """`what` is it for messages."""
        if not isinstance(value, dict):
            raise InvalidInput(f"{what} is {quoted(value)}, expected a JSON object")
        self._what = what
        self._values: dict[str, Any] = value

    def text(self, name: str, limit: int = MAX_NAME) -> str:
        """A string of 1 to `limit` characters that must be there."""
        value = self.optional_text(name, limit)
        if not value:
            raise InvalidInput(f"{self._what} has no {name}")
        return value

    def optional_text(self, name: str, limit: int = MAX_NAME) -> str | None:
        """A string of at most `limit` characters, None when it is absent."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            self._refuse(name, "a text")
        if value is not None and len(value) > limit:
            raise InvalidInput(
                f"{self._what}: {name} has {len(value)} characters, at most {limit} are allowed"
            )
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false, `default` when it is absent."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._refuse(name, "true or false")
        return value

    def number(self, name: str, lowest: int, highest: int) -> int | None:
        """A whole number from `lowest` to `highest`, None when it is absent."""
        value = self._values.get(name)
        if value is not None and (type(value) is not int or not lowest <= value <= highest):
            self._refuse(name, f"a whole number from {lowest} to {highest}")
        return value

    def part(self, name: str) -> Self:
        """An object inside this one, empty when it is absent."""
        value = self._values.get(name)
        return type(self)(f"{self._what}: {name}", {} if value is None else value)

    def parts(self, name: str, limit: int) -> list[Self]:
        """A list of at most `limit` objects, empty when it is absent."""
        return [type(self)(f"{self._what}: {name}", value) for value in self._array(name, limit)]

    def objects(self, name: str, limit: int) -> list[object]:
        """A list of at most `limit` values, to be taken apart by their own reader; empty when it is absent."""
        return self._array(name, limit)

    def any(self, name: str) -> object:
        """Whatever is there, to be taken apart by its own reader."""
        return self._values.get(name)

    def texts(self, name: str, limit: int, characters: int = MAX_NAME) -> list[str]:
        """A list of at most `limit` strings of at most so many characters, empty when it is absent."""
        values = self._array(name, limit)
        if not all(isinstance(value, str) and len(value) <= characters for value in values):
            self._refuse(name, f"a list of texts of at most {characters} characters")
        return values

    def mapping(self, name: str) -> dict[str, str]:
        """An object whose values are texts, empty when it is absent; who uses it checks the lengths."""
        value = self._values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            self._refuse(name, "an object of texts")
        return value

    def _array(self, name: str, limit: int) -> list[Any]:
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self._refuse(name, "a list")
        if len(value) > limit:
            raise InvalidInput(f"{self._what}: {name} has {len(value)} entries, at most {limit} are allowed")
        return value

    def _refuse(self, name: str, expected: str) -> NoReturn:
        raise InvalidInput(f"{self._what}: {name} is {quoted(self._values[name])}, expected {expected}")
