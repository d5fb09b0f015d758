"""Values to YAML, with comments where a reader asks why: what is written once is always written the same way.

PyYAML's emitter has no comments. What we print is a small part of YAML, and its parser reads it back in the tests.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import dumps
from typing import Any, Final

import yaml

WIDTH: Final = 118
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-")


@dataclass(frozen=True, slots=True)
class Commented:
    """A value of a mapping, or an entry of a list, with the comment that stands above it."""

    comment: str
    value: Any


def plain(value: object) -> object:
    """The value without comments, in dictionaries and lists."""
    value = _bare(value)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return value


def document(value: Mapping[str, Any]) -> str:
    """One document, with its beginning marked."""
    return "\n".join(["---", *(line.rstrip() for line in _mapping(value)), ""])


def _mapping(value: Mapping[str, Any]) -> Iterator[str]:
    for key, each in value.items():
        yield from _comment(each)
        yield from _entry(f"{_scalar(key)}:", _bare(each))


def _entry(head: str, value: object) -> Iterator[str]:
    """A key and its value, on one line where that is usual."""
    if isinstance(value, Mapping) and value:
        yield head
        yield from (f"  {line}" for line in _mapping(value))
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        yield head
        yield from (f"  {line}" for line in _list(value))
    elif isinstance(value, str) and "\n" in value:
        yield f"{head} |"
        yield from (f"  {line}" for line in value.removesuffix("\n").split("\n"))
    else:
        yield f"{head} {_scalar(value)}"


def _list(value: Sequence[Any]) -> Iterator[str]:
    for each in value:
        yield from _comment(each)
        bare = _bare(each)
        if isinstance(bare, Mapping) and bare:
            first, *rest = _mapping(bare)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
        else:
            yield f"- {_scalar(bare)}"


def _comment(value: object) -> Iterator[str]:
    if isinstance(value, Commented):
        words, line = value.comment.split(), "#"
        for word in words:
            if len(line) + len(word) >= WIDTH:
                yield line
                line = "#"
            line += f" {word}"
        yield line


def _bare(value: object) -> object:
    return value.value if isinstance(value, Commented) else value


def _scalar(value: object) -> str:
    """A value on one line; a text is in quotes wherever YAML, 1.1 or 1.2, could take it for something else."""
    if not isinstance(value, str):
        return dumps(value)
    is_plain = value and set(value) <= _PLAIN and (value[0].isalnum() or value[0] == "/")
    if (
        is_plain
        and value.lower() not in ("y", "n")
        and not _is_number(value)
        and yaml.safe_load(value) == value
    ):
        return value
    return dumps(value)


def _is_number(text: str) -> bool:
    """More than PyYAML takes for one: 1e3 is one in YAML 1.2."""
    for number in (float, lambda digits: int(digits, 0)):
        try:
            number(text)
        except ValueError:
            continue
        return True
    return False
