"""Take the fields of a document out one by one; what nobody asked for is refused, with its place."""

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from typing import Final, NamedTuple, TypeVar

from interceptor.errors import QUOTED_CHARACTERS, InvalidInput, PolicyError, quoted
from interceptor.strict_yaml import ListNode, MappingNode, Node, ScalarNode, kind_of

MAX_ITEMS: Final = 1000  # of any one list

T = TypeVar("T")
_new: Final = tuple.__new__  # as in `strict_yaml`


class Field(NamedTuple):
    """One value, and where its key (or the list's item) stands; `step` leads there from the value that `owner` is."""

    node: Node
    step: str
    file: str
    line: int
    column: int
    owner: "Field | None" = None

    @property
    def path(self) -> str:
        """How the value is reached in the document, such as `spec.rules[0].from`; made only for what is wrong."""
        before = "" if self.owner is None else self.owner.path
        # A key is whatever somebody wrote into a file: no message may be more than one line because of it.
        is_plain = self.step.isascii() and self.step.isprintable() and len(self.step) <= QUOTED_CHARACTERS
        step = self.step if is_plain else quoted(self.step)
        return f"{before}.{step}" if before and not step.startswith("[") else f"{before}{step}"

    def error(self, problem: str) -> PolicyError:
        """What is wrong with this field, with its place in front; a whole document has no path."""
        path = self.path
        return PolicyError(f"{self.file}:{self.line}:{self.column}: {path}{': ' if path else ''}{problem}")

    @property
    def is_null(self) -> bool:
        """Whether there is nothing behind the colon."""
        return isinstance(self.node, ScalarNode) and self.node.is_null

    def text(self) -> str:
        """The value as text; a number or `true` without quotes is none, as for Kubernetes."""
        if not isinstance(self.node, ScalarNode):
            raise self.error(f"expected text, not {kind_of(self.node)}")
        if self.node.is_null:
            raise self.error("has no value, give one or remove the line")
        if not self.node.is_text:
            raise self.error(f"{quoted(self.node.text)} is not text to YAML, put it in quotes")
        return self.node.text

    def parse(self, parse: Callable[[str], T]) -> T:
        """The text through a function that raises InvalidInput."""
        try:
            return parse(self.text())
        except InvalidInput as error:
            raise self.error(str(error)) from None

    def items(self) -> tuple["Field", ...]:
        """The items of a list, of which there must be some."""
        return tuple(self._item(number, item) for number, item in enumerate(self._nodes()))

    def _nodes(self) -> tuple[Node, ...]:
        if not isinstance(self.node, ListNode):
            raise self.error(f"expected a list, not {kind_of(self.node)}")
        count = len(self.node.items)
        if not 0 < count <= MAX_ITEMS:
            raise self.error(
                f"has {count} items, expected 1 to {MAX_ITEMS}; without any, leave the field out"
            )
        return self.node.items

    def _item(self, number: int, node: Node) -> "Field":
        return _new(Field, (node, f"[{number}]", self.file, node.line, node.column, self))

    def parse_each(self, parse: Callable[[str], T]) -> tuple[T, ...]:
        """The items of a list, each through a function that raises InvalidInput."""
        found = []
        for number, node in enumerate(self._nodes()):
            try:
                if isinstance(node, ScalarNode) and node.is_text:
                    found.append(parse(node.text))
                    continue
            except InvalidInput:
                pass  # told below, with its place, which is made only for what is wrong
            found.append(self._item(number, node).parse(parse))
        return tuple(found)

    def mapping(self, unsupported: Mapping[str, str] | None = None) -> "Fields":
        """The fields inside a mapping; `unsupported` says why some that others know cannot be used here."""
        if not isinstance(self.node, MappingNode):
            raise self.error(f"expected 'key: value' lines, not {kind_of(self.node)}")
        return Fields(self, self.node, unsupported or {})


class Fields:
    """One mapping while its fields are taken out; call `end` when all were asked for."""

    def __init__(self, owner: Field, node: MappingNode, unsupported: Mapping[str, str]) -> None:
        self.owner = owner
        self._node = node
        self._unsupported = unsupported
        self._known: list[str] = []

    def get(self, key: str) -> Field | None:
        """The field of that name, or None when it is left out."""
        self._known.append(key)
        found = self._node.entries.get(key)
        return None if found is None else self._field(key, found)

    def those_of(self, keys: Collection[str]) -> dict[str, Field]:
        """The fields of these names that are there: of many, most are left out."""
        self._known += keys
        return {key: self._field(key, found) for key, found in self._node.entries.items() if key in keys}

    def require(self, key: str) -> Field:
        """The field of that name; it must be there."""
        found = self.get(key)
        if found is None:
            raise self.owner.error(f"{key!r} is missing")
        return found

    def all(self) -> tuple[tuple[str, Field], ...]:
        """Every field with its name, for mappings whose keys are data."""
        self._known = list(self._node.entries)
        return tuple((key, self._field(key, found)) for key, found in self._node.entries.items())

    def end(self) -> None:
        """Raise PolicyError for the first field that nobody asked for."""
        known = self._known
        for key, found in self._node.entries.items():
            if key in known:
                continue
            field = self._field(key, found)
            if key in self._unsupported:
                raise field.error(self._unsupported[key])
            close = get_close_matches(key, self._known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(self._known)}"
            raise field.error(f"unknown field, {hint}")

    def _field(self, key: str, found: tuple[ScalarNode, Node]) -> Field:
        key_node, node = found
        return _new(Field, (node, key, self.owner.file, key_node.line, key_node.column, self.owner))
