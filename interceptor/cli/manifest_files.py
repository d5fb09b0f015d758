"""The texts behind the paths of a command line: files, directories of manifests, and standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.errors import PolicyError
from interceptor.network_policy.parse import MAX_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STANDARD_INPUT = Path("-")
SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 20_000


def read_manifests(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """Names and texts; of a directory, everything in it that ends as manifests do.  PolicyError when one is unreadable."""
    texts, size = [], 0
    for path in _files(paths):
        text = _read(path, MAX_CHARACTERS + 1 - size)
        size += len(text)
        if size > MAX_CHARACTERS:
            raise PolicyError(f"{path}: there is more than {MAX_CHARACTERS} bytes to read, give fewer files")
        texts.append(("standard input" if path == STANDARD_INPUT else str(path), _decoded(path, text)))
        if len(texts) > MAX_FILES:
            raise PolicyError(f"{path}: there are more than {MAX_FILES} files to read, give fewer")
    return texts


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in dict.fromkeys(paths):
        if not path.is_dir():
            yield path
            continue
        found = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES and _is_shown(each, path))
        if not found:
            raise PolicyError(f"{path}: has no file that ends with {', '.join(SUFFIXES)}")
        yield from found


def _is_shown(path: Path, top: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(top).parts)


def _read(path: Path, most: int) -> bytes:
    try:
        if path == STANDARD_INPUT:
            return sys.stdin.buffer.read(most)
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read, {error.strerror}") from error


def _decoded(path: Path, text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: is not UTF-8, at byte {error.start}") from error
