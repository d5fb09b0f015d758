"""A small, strict subset of YAML: mappings, lists and scalars, each with the line it stands on.

What YAML has beyond that is refused, because it is a way to say something else than what a reader sees: aliases and
merge keys, several documents, explicit tags, duplicate keys (of which PyYAML would silently take the last).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

import yaml

from interceptor.errors import ConfigError, quoted

MAX_CHARACTERS: Final = (
    1024 * 1024
)  # a real one has some hundred; this bounds what a wrong path can make us read
MAX_DEPTH: Final = (
    8  # three are in use; PyYAML recurses for each, and an unbounded depth would exhaust the stack
)
_STR, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as it is written; `is_text` is false for what YAML takes as number, boolean or date."""

    text: str
    is_text: bool
    is_null: bool
    line: int


@dataclass(frozen=True, slots=True)
class Items:
    """A list of scalars; an empty mapping too, which must not pass for a key that is left out."""

    scalars: tuple[Scalar, ...]
    line: int


KeyPath = tuple[str, ...]
Document = dict[KeyPath, Scalar | Items]


def read_document(text: str, name: str) -> Document:
    """YAML text to its values by path; a mapping has no entry of its own, only those inside it.

    `name` is the file's name for messages. Raises ConfigError, and nothing else, for text that is no such document.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{name}: has {len(text)} characters, at most {MAX_CHARACTERS} are allowed")
    try:
        root = _compose(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: cannot be read, {error.problem}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The last two come from PyYAML itself, for an escape such as "\\UFFFFFFFF" that names no character.
        raise ConfigError(f"{name}: cannot be read, {quoted(str(error))}") from None
    if root is None or root.tag == _NULL:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{name}:{_line(root)}: expected 'key: value' lines, not {_kind(root)}")
    return dict(_flatten(root, (), name))


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader's own parser, whose composer refuses anchors and aliases and bounds the depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self._refuse(event, "anchors and aliases are not allowed, write the value out")
        if getattr(event, "tag", None) is not None:
            self._refuse(event, "tags are not allowed, remove the word that begins with '!'")
        if self.depth >= MAX_DEPTH:
            self._refuse(event, f"it is nested deeper than {MAX_DEPTH} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refuse(self, event: yaml.Event, problem: str) -> NoReturn:
        mark = event.start_mark
        assert isinstance(
            mark, yaml.Mark
        )  # each event of PyYAML's own parser has one; the stubs allow for others
        raise yaml.composer.ComposerError(None, None, problem, mark)


def _compose(text: str) -> yaml.Node | None:
    loader = _StrictLoader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _flatten(
    mapping: yaml.MappingNode, prefix: KeyPath, name: str
) -> Iterator[tuple[KeyPath, Scalar | Items]]:
    seen: dict[str, int] = {}
    for key_node, node in mapping.value:
        where = f"{name}:{_line(key_node)}"
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _STR:
            raise ConfigError(f"{where}: a key must be plain text, not {_kind(key_node)}")
        key = key_node.value
        path = (*prefix, key)
        if key in seen:
            raise ConfigError(
                f"{where}: key {quoted('.'.join(path))} is there twice, first in line {seen[key]}"
            )
        seen[key] = _line(key_node)
        if isinstance(node, yaml.MappingNode) and node.value:
            yield from _flatten(node, path, name)
        elif isinstance(node, yaml.CollectionNode):
            yield path, Items(tuple(_scalar(item, name) for item in node.value), _line(key_node))
        else:
            yield path, _scalar(node, name)


def _scalar(node: yaml.Node, name: str) -> Scalar:
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{name}:{_line(node)}: a list may only hold single values, not {_kind(node)}")
    return Scalar(node.value, node.tag == _STR, node.tag == _NULL, _line(node))


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _kind(node: yaml.Node) -> str:
    """What a node is, in a reader's words."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return f"the value {quoted(node.value)}"
