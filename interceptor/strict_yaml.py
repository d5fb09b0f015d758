"""A small, strict subset of YAML: mappings, lists and scalars, each with the line and column where it stands.

What YAML has beyond that is refused, because it is a way to say something else than what a reader sees: aliases and
merge keys, explicit tags, duplicate keys (of which PyYAML would silently take the last). Nesting is bounded, and without
aliases a document cannot grow while it is read, so the caller's bound on the text bounds everything.

Ten thousand policies are two million values: nodes are named tuples, which take a quarter of the time of frozen data
classes to make, and the type of an event is compared before it is asked for its base classes.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

import yaml

from interceptor.errors import quoted

_STR, _NULL, _INT = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "null", "int"))
_RESOLVER: Final = yaml.resolver.Resolver()
_TEXT: Final = (True, False)  # what is in quotes
_new: Final = tuple.__new__  # half as long as to call a named tuple's class, and there are millions
_DOCUMENT_START: Final = "\n---"  # and one of these behind it
_BLANKS: Final = (" ", "\t", "\n")
# A directive, which is said before a document, and what YAML counts as the end of a line beside "\n".
_UNCUTTABLE: Final = ("\n%", "\r", "\x85", "\u2028", "\u2029")


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
    documents = tuple(_Reader(max_depth, number_keys=False, several=False).read(text, yaml.SafeLoader))
    return documents[0] if documents else None


def read_documents(
    text: str, *, max_depth: int, first_line: int = 1, max_keys: int | None = None
) -> Iterator[Node]:
    """All documents of a text but the empty ones; keys may be whole numbers; raises StrictYamlError only.

    They come one by one: whoever is done with one before the next holds one at a time, which is faster too. Lines are
    counted from `first_line`; no mapping may have more than `max_keys`. Parsed by libyaml if PyYAML was built with it: several times as fast, and its messages
    have other words.
    """
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    reader = _Reader(max_depth, number_keys=True, several=True, first_line=first_line, max_keys=max_keys)
    return reader.read(text, loader)


@dataclass(frozen=True, slots=True)
class Part:
    """Some documents of a text, which begin in a line of it."""

    text: str
    line: int


def split_documents(text: str) -> tuple[Part, ...]:
    """Cut a text where a document surely begins, into parts that say together what the text says.

    "---" at the beginning of a line, and a blank behind it, begins a document wherever it stands: it is allowed inside
    no scalar (YAML 1.1, 4.1.2 and 9.1.2, "c-forbidden" in 1.2). What would make lines hard to count, or reach from one
    document into the next (a directive), is left in one part.
    """
    if any(sign in text for sign in _UNCUTTABLE) or text.startswith(("%", "\ufeff%")):
        return (Part(text, 1),)
    parts, begin, line = [], 0, 1
    found = text.find(_DOCUMENT_START)
    while found >= 0:
        start = found + 1
        if text[found + 4 : found + 5] in _BLANKS:
            parts.append(Part(text[begin:start], line))
            line += text.count("\n", begin, start)
            begin = start
        found = text.find(_DOCUMENT_START, start)
    return (*parts, Part(text[begin:], line))


class _Reader:
    """Builds nodes from the parser's events, which come one by one: what is refused first ends the reading."""

    def __init__(
        self,
        max_depth: int,
        *,
        number_keys: bool,
        several: bool,
        first_line: int = 1,
        max_keys: int | None = None,
    ) -> None:
        self._max_depth = max_depth
        self._first = first_line
        self._max_keys = sys.maxsize if max_keys is None else max_keys
        self._number_keys = number_keys
        self._several = several
        self._path: list[str] = []  # of keys, for messages
        self._next: Any = None

    def read(self, text: str, loader: Any) -> Iterator[Node]:  # noqa: ANN401 - PyYAML's loaders share no type
        """The documents of a text."""
        try:
            parser = loader(text)
        except (yaml.YAMLError, ValueError) as error:
            raise self._unreadable(text, error) from None
        self._next = parser.get_event
        try:
            yield from self._documents()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line, column = (mark.line, mark.column + 1) if mark else (0, 1)
            tab = "; it is a tab, use spaces" if _is_tab(text, line + 1, column) else ""
            raise StrictYamlError(
                f"cannot be read, {error.problem}{tab}", line + self._first, column
            ) from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # The last two come from PyYAML itself, for an escape such as "\\UFFFFFFFF" that names no character.
            raise self._unreadable(text, error) from None
        finally:
            parser.dispose()

    def _unreadable(self, text: str, error: Exception) -> StrictYamlError:
        """What PyYAML refuses without a place; of characters that must not be in YAML, the first one is found again."""
        found = yaml.reader.Reader.NON_PRINTABLE.search(text)
        if found is None:
            return StrictYamlError(f"cannot be read, {quoted(str(error))}")
        line = text.count("\n", 0, found.start()) + self._first
        column = found.start() - text.rfind("\n", 0, found.start())
        return StrictYamlError(
            f"cannot be read, {quoted(found.group())} must not be in YAML, remove it", line, column
        )

    def _documents(self) -> Iterator[Node]:
        number = 0
        while not isinstance(event := self._next(), yaml.StreamEndEvent):
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            number += 1
            if number > 1 and not self._several:
                self._refuse(event, "cannot be read, but found another document")
            node = self._node(self._next(), 0)
            if not (isinstance(node, ScalarNode) and node.is_null):
                yield node

    def _node(self, event: Any, depth: int) -> Node:  # noqa: ANN401 - an event of PyYAML, of many types
        if event.anchor is not None:  # an alias has one too
            self._refuse(event, "cannot be read, anchors and aliases are not allowed, write the value out")
        if event.tag is not None:
            self._refuse(event, "cannot be read, tags are not allowed, remove the word that begins with '!'")
        if depth >= self._max_depth:
            self._refuse(event, f"cannot be read, it is nested deeper than {self._max_depth} levels")
        mark = event.start_mark
        line, column = mark.line + self._first, mark.column + 1
        if type(event) is yaml.ScalarEvent:
            text = event.value
            is_text, is_null = _TEXT if event.style else _plain(text)
            return _new(ScalarNode, (text, is_text, is_null, line, column))
        if type(event) is yaml.SequenceStartEvent:
            return _new(ListNode, (self._items(depth + 1), line, column))
        return _new(MappingNode, (self._entries(depth + 1), line, column))

    def _items(self, depth: int) -> tuple[Node, ...]:
        items = []
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            items.append(self._node(event, depth))
        return tuple(items)

    def _entries(self, depth: int) -> dict[str, tuple[ScalarNode, Node]]:
        entries: dict[str, tuple[ScalarNode, Node]] = {}
        path = self._path
        while type(event := self._next()) is not yaml.MappingEndEvent:
            key = self._node(event, depth)
            if type(key) is not ScalarNode or not key.is_text:
                key = self._number_key(key)
            text = key.text
            path.append(text)
            if text in entries:
                first, where = entries[text][0].line, quoted(".".join(path))
                raise StrictYamlError(
                    f"key {where} is there twice, first in line {first}", key.line, key.column
                )
            if len(entries) >= self._max_keys:
                raise StrictYamlError(f"a mapping has more than {self._max_keys} keys", key.line, key.column)
            entries[text] = (key, self._node(self._next(), depth))
            path.pop()
        return entries

    def _number_key(self, node: Node) -> ScalarNode:
        """A key that YAML takes as no text: fine if it is a whole number, and those are allowed."""
        if (
            isinstance(node, ScalarNode)
            and self._number_keys
            and node.text.isascii()
            and node.text.isdecimal()
        ):
            return node
        raise StrictYamlError(f"a key must be plain text, not {kind_of(node)}", node.line, node.column)

    def _refuse(self, event: Any, problem: str) -> NoReturn:  # noqa: ANN401 - an event of PyYAML
        mark = event.start_mark
        raise StrictYamlError(problem, mark.line + self._first, mark.column + 1)


@lru_cache(maxsize=4096)
def _plain(text: str) -> tuple[bool, bool]:
    """Whether YAML takes a scalar without quotes as text, and whether as nothing."""
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return tag == _STR, tag == _NULL


def _is_tab(text: str, line: int, column: int) -> bool:
    lines = text.split("\n", line)
    return len(lines) >= line and lines[line - 1][column - 1 : column] == "\t"
