"""config.yaml as its values by path: one document of strict YAML, whose lists hold single values only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from interceptor import strict_yaml
from interceptor.errors import ConfigError
from interceptor.strict_yaml import ListNode, MappingNode, Node, ScalarNode, StrictYamlError, kind_of

MAX_CHARACTERS: Final = (
    1024 * 1024
)  # a real one has some hundred; this bounds what a wrong path can make us read
MAX_DEPTH: Final = 8  # three are in use


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
    root = read_mapping(text, name, max_characters=MAX_CHARACTERS, max_depth=MAX_DEPTH)
    return {} if root is None else dict(_flatten(root, (), name))


def read_mapping(text: str, name: str, *, max_characters: int, max_depth: int) -> MappingNode | None:
    """The one mapping of a text, None when there is nothing in it; ConfigError, with file and line, for anything else."""
    if len(text) > max_characters:
        raise ConfigError(f"{name}: has {len(text)} characters, at most {max_characters} are allowed")
    try:
        root = strict_yaml.read_document(text, max_depth=max_depth)
    except StrictYamlError as error:
        where = name if error.line is None else f"{name}:{error.line}"
        raise ConfigError(f"{where}: {error.problem}") from None
    if root is None or isinstance(root, MappingNode):
        return root
    raise ConfigError(f"{name}:{root.line}: expected 'key: value' lines, not {kind_of(root)}")


def _flatten(mapping: MappingNode, prefix: KeyPath, name: str) -> Iterator[tuple[KeyPath, Scalar | Items]]:
    for key, (key_node, node) in mapping.entries.items():
        path = (*prefix, key)
        if isinstance(node, MappingNode) and node.entries:
            yield from _flatten(node, path, name)
        elif isinstance(node, ScalarNode):
            yield path, _scalar(node, name)
        else:
            items = node.items if isinstance(node, ListNode) else ()
            yield path, Items(tuple(_scalar(item, name) for item in items), key_node.line)


def _scalar(node: Node, name: str) -> Scalar:
    if not isinstance(node, ScalarNode):
        raise ConfigError(f"{name}:{node.line}: a list may only hold single values, not {kind_of(node)}")
    return Scalar(node.text, node.is_text, node.is_null, node.line)
