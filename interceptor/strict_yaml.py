"""A small, strict subset of YAML: mappings, lists and scalars, each with the line and column where it stands.

What YAML has beyond that is refused, because it is a way to say something else than what a reader sees: aliases and
merge keys, explicit tags, duplicate keys (of which PyYAML would silently take the last). Nesting is bounded, and without
aliases a document cannot grow while it is read, so the caller's bound on the text bounds everything.

Ten thousand policies are two million values: nodes are named tuples, which take a quarter of the time of frozen data
classes to make, and the type of an event is compared before it is asked for its base classes.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

import yaml

from interceptor.errors import quoted

_STR, _NULL, _INT = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "null", "int"))
_RESOLVER: Final = yaml.resolver.Resolver()
_TEXT: Final = (True, False)  # what is in quotes


class StrictYamlError(Exception):
    """Text that is no such document: `problem` is one line; `line` is None when the place is not known."""

    def __init__(self, problem: str, line: int | None = None, column: int = 1) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line
        self.column = column


class ScalarNode(NamedTuple):
    """One value as it is written; `is_text` is false for what YAML takes as number, boolean, date or nothing."""

    text: str
    is_text: bool
    is_null: bool
    line: int
    column: int


class ListNode(NamedTuple):
    """A list, and where it begins."""

    items: tuple["Node", ...]
    line: int
    column: int


class MappingNode(NamedTuple):
    """A mapping, and where it begins; each key with its own place, in the order of the text."""

    entries: dict[str, tuple[ScalarNode, "Node"]]
    line: int
    column: int


Node = ScalarNode | ListNode | MappingNode


def kind_of(node: Node) -> str:
    """What a node is, in a reader's words."""
    if isinstance(node, MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, ListNode) else f"the value {quoted(node.text)}"


def read_document(text: str, *, max_depth: int) -> Node | None:
    """The one document of a text, None when there is nothing in it; raises StrictYamlError, and nothing else."""
    documents = _Reader(max_depth, number_keys=False, several=False).read(text, yaml.SafeLoader)
    return documents[0] if documents else None


def read_documents(text: str, *, max_depth: int) -> tuple[Node, ...]:
    """All documents of a text but the empty ones; keys may be whole numbers; raises StrictYamlError only.

    Parsed by libyaml if PyYAML was built with it: several times as fast, and its messages have other words.
    """
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    return _Reader(max_depth, number_keys=True, several=True).read(text, loader)


class _Reader:
    """Builds nodes from the parser's events, which come one by one: what is refused first ends the reading."""

    def __init__(self, max_depth: int, *, number_keys: bool, several: bool) -> None:
        self._max_depth = max_depth
        self._number_keys = number_keys
        self._several = several
        self._path: list[str] = []  # of keys, for messages
        self._next: Any = None

    def read(self, text: str, loader: Any) -> tuple[Node, ...]:  # noqa: ANN401 - PyYAML's loaders share no type
        """The documents of a text."""
        try:
            parser = loader(text)
        except (yaml.YAMLError, ValueError) as error:
            raise _unreadable(text, error) from None
        self._next = parser.get_event
        try:
            return tuple(self._documents())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            tab = "; it is a tab, use spaces" if _is_tab(text, line, column) else ""
            raise StrictYamlError(f"cannot be read, {error.problem}{tab}", line, column) from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # The last two come from PyYAML itself, for an escape such as "\\UFFFFFFFF" that names no character.
            raise _unreadable(text, error) from None
        finally:
            parser.dispose()

    def _documents(self) -> Iterator[Node]:
        number = 0
        while not isinstance(event := self._next(), yaml.StreamEndEvent):
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            number += 1
            if number > 1 and not self._several:
                _refuse(event, "cannot be read, but found another document")
            node = self._node(self._next(), 0)
            if not (isinstance(node, ScalarNode) and node.is_null):
                yield node

    def _node(self, event: Any, depth: int) -> Node:  # noqa: ANN401 - an event of PyYAML, of many types
        mark = event.start_mark
        if type(event) is yaml.AliasEvent or event.anchor is not None:
            _refuse(event, "cannot be read, anchors and aliases are not allowed, write the value out")
        if event.tag is not None:
            _refuse(event, "cannot be read, tags are not allowed, remove the word that begins with '!'")
        if depth >= self._max_depth:
            _refuse(event, f"cannot be read, it is nested deeper than {self._max_depth} levels")
        if type(event) is yaml.ScalarEvent:
            is_text, is_null = _TEXT if event.style else _plain(event.value)
            return ScalarNode(event.value, is_text, is_null, mark.line + 1, mark.column + 1)
        if type(event) is yaml.SequenceStartEvent:
            return ListNode(self._items(depth + 1), mark.line + 1, mark.column + 1)
        return MappingNode(self._entries(depth + 1), mark.line + 1, mark.column + 1)

    def _items(self, depth: int) -> tuple[Node, ...]:
        items = []
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            items.append(self._node(event, depth))
        return tuple(items)

    def _entries(self, depth: int) -> dict[str, tuple[ScalarNode, Node]]:
        entries: dict[str, tuple[ScalarNode, Node]] = {}
        while type(event := self._next()) is not yaml.MappingEndEvent:
            key = self._key(self._node(event, depth))
            self._path.append(key.text)
            if key.text in entries:
                first = entries[key.text][0].line
                path = quoted(".".join(self._path))
                raise StrictYamlError(
                    f"key {path} is there twice, first in line {first}", key.line, key.column
                )
            entries[key.text] = (key, self._node(self._next(), depth))
            self._path.pop()
        return entries

    def _key(self, node: Node) -> ScalarNode:
        is_key = isinstance(node, ScalarNode) and (
            node.is_text or (self._number_keys and node.text.isascii() and node.text.isdecimal())
        )
        if not is_key:
            raise StrictYamlError(f"a key must be plain text, not {kind_of(node)}", node.line, node.column)
        assert isinstance(node, ScalarNode)
        return node


@lru_cache(maxsize=4096)
def _plain(text: str) -> tuple[bool, bool]:
    """Whether YAML takes a scalar without quotes as text, and whether as nothing."""
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return tag == _STR, tag == _NULL


def _unreadable(text: str, error: Exception) -> StrictYamlError:
    """What PyYAML refuses without a place; of characters that must not be in YAML, the first one is found again."""
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if found is None:
        return StrictYamlError(f"cannot be read, {quoted(str(error))}")
    line = text.count("\n", 0, found.start()) + 1
    column = found.start() - text.rfind("\n", 0, found.start())
    return StrictYamlError(
        f"cannot be read, {quoted(found.group())} must not be in YAML, remove it", line, column
    )


def _is_tab(text: str, line: int, column: int) -> bool:
    lines = text.split("\n", line)
    return len(lines) >= line and lines[line - 1][column - 1 : column] == "\t"


def _refuse(event: Any, problem: str) -> NoReturn:  # noqa: ANN401 - an event of PyYAML
    raise StrictYamlError(problem, event.start_mark.line + 1, event.start_mark.column + 1)
