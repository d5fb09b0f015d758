"""Several policy files are replaced as one: all of them or none, whenever the agent is killed.

Each new text is written beside its file first. Then a journal with the names is put there in one step, and from then on
the files count as replaced: whoever reads the directory next finishes what was begun before it looks at any of them.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.agent.state import sync_directory, write_atomically
from interceptor.errors import PolicyError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

JOURNAL = ".apply.json"


def replace_files(directory: Path, texts: Mapping[str, str]) -> None:
    """Make these the texts of the files of these names.

    PolicyError when that cannot be: nothing is replaced then, unless all was decided and only renaming failed.
    """
    try:
        for name, text in texts.items():
            _write(_beside(directory, name), text)
        write_atomically(directory / JOURNAL, json.dumps({"files": list(texts)}).encode())
    except (OSError, StateError) as error:
        for name in texts:
            with suppress(OSError):
                _beside(directory, name).unlink()
        reason = error.strerror if isinstance(error, OSError) else error
        raise PolicyError(f"{directory} cannot be written: {reason}") from error
    sync_directory(directory)
    finish_replacement(directory)


def finish_replacement(directory: Path) -> None:
    """Finish what was decided and not done; PolicyError when that cannot be."""
    journal = directory / JOURNAL
    try:
        names = _names(journal.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyError(
            f"{journal}: cannot be used ({error}), so nobody knows which policy files belong together: look at them, and "
            "remove it"
        ) from error
    try:
        for name in names:
            with suppress(FileNotFoundError):  # that one was done
                _beside(directory, name).replace(directory / name)
        sync_directory(directory)
        journal.unlink()
    except OSError as error:
        raise PolicyError(
            f"{directory} cannot be written ({error.strerror}): its files are half replaced, and are read when the rest is"
        ) from error


def _names(data: bytes) -> Iterable[str]:
    names = json.loads(data)["files"]
    if not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise ValueError("it names other things than files")
    return tuple(names)


def _beside(directory: Path, name: str) -> Path:
    return directory / f".{name}.new"


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(fd)
