"""The directory of policy documents, read as one set: all of its files as they were at one moment, or an error."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from interceptor.agent.parsing import NamedPart, Parsed, parse_parts
from interceptor.agent.policy_journal import JOURNAL, finish_replacement
from interceptor.errors import PolicyError
from interceptor.policy.documents import Place
from interceptor.policy.parse import parts_of, require_unique

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.policy.documents import Document
    from interceptor.policy.mesh_names import MeshNames

SUFFIXES = (".yaml", ".yml")
MAX_FILES = 20_000
MAX_BYTES = 64 * 1024 * 1024
MANY_OBJECTS = 100_000
_ATTEMPTS = 5

Signature = tuple[tuple[str, int, int, int, int], ...]  # name, inode, size, time of change, owner


@dataclass(frozen=True, slots=True)
class PolicyTexts:
    """The files as they were read: `documents` of all, and for each by its name the text in which it stands.

    `objects` are the texts of those that are objects of a cluster's API instead, None where there is no cluster.
    """

    documents: tuple[Document, ...]
    texts: Mapping[str, str]
    signature: Signature
    objects: Mapping[str, str] | None = None

    @property
    def all_texts(self) -> Mapping[str, str]:
        """Those of files and of objects."""
        return {**self.texts, **(self.objects or {})}

    @property
    def owners(self) -> str:
        """Who owns the files: the best that can be said of who wrote them."""
        return ", ".join(f"uid {uid}" for uid in sorted({entry[4] for entry in self.signature}))

    @property
    def author(self) -> str:
        """By whom a change may be, for the audit trail."""
        if self.objects is None:
            return f"files of {self.owners}" if self.owners else "removal of all files"
        return f"objects of the Kubernetes API{f', files of {self.owners}' if self.owners else ''}"


class PolicySource(Protocol):
    """Where a set of policies is read from; used by one thread at a time."""

    directory: Path

    @property
    def not_read(self) -> tuple[str, ...]:
        """The names in the directory that are none of a policy file."""

    def signature(self) -> object:
        """What is there, to see whether it changed; PolicyError if unreadable."""

    def load(self, changed: Mapping[str, str] | None = None) -> PolicyTexts:
        """The set that is there, with some files' texts replaced by `changed`; PolicyError when there is none."""


class PolicyFiles:
    """One directory; what did not change since the last time is not parsed again. Used by one thread at a time."""

    def __init__(self, directory: Path, mesh: MeshNames) -> None:
        self.directory = directory
        self._mesh = mesh
        self.not_read: tuple[str, ...] = ()  # what else is there, by its name
        # What each part of a file says, by its text: good parts wherever they stand, bad ones where they stood.
        self._parsed: dict[str, tuple[Place, Parsed]] = {}

    def signature(self) -> Signature | None:
        """What is there, to see whether it changed; None when the directory is not there. PolicyError if unreadable.

        A name that leads nowhere is either a file that went away meanwhile, and then everything is looked at again, or
        a link to nothing, and then nobody knows what should be there: never is it a reason to overlook the others.
        """
        missing = ""
        for _ in range(_ATTEMPTS):
            try:
                return self._sign_all()
            except FileNotFoundError as error:
                if not self.directory.exists():
                    return None
                missing = str(error.filename)
            except OSError as error:
                which = error.filename or self.directory
                raise PolicyError(f"{which}: cannot be read: {error.strerror}") from error
        if Path(missing).is_symlink():
            raise PolicyError(
                f"{missing}: is a link to a file that is not there, remove it or put the file there"
            )
        raise self._restless()

    def _sign_all(self) -> Signature:
        _require_trustworthy(self.directory, self.directory.stat())
        with os.scandir(self.directory) as entries:
            everything = [entry for entry in entries if not entry.name.startswith(".")]
        found = [entry for entry in everything if entry.name.endswith(SUFFIXES)]
        self.not_read = tuple(sorted(entry.name for entry in everything if not entry.name.endswith(SUFFIXES)))
        return tuple(sorted(_sign(entry.name, entry.stat()) for entry in found))

    def _restless(self) -> PolicyError:
        return PolicyError(f"the policies in {self.directory} change all the time, they cannot be read")

    def load(self, changed: Mapping[str, str] | None = None) -> PolicyTexts:
        """The set that is there, with some files' texts replaced by `changed`; PolicyError when there is none.

        A directory that is not there is an empty set: whether it should be there is for the caller to say.
        """
        with collection_paused():
            return self._load(changed or {})

    def _load(self, changed: Mapping[str, str]) -> PolicyTexts:
        texts, signature = self._read()
        texts.update(changed)
        parts: list[NamedPart] = []
        problems: dict[str, tuple[str, ...]] = {}  # of each file the first, in the order of the files
        for name in sorted(texts):
            file = str(self.directory / name)
            try:
                parts += [NamedPart(file, part) for part in parts_of(file, texts[name])]
            except PolicyError as error:
                problems[file] = error.problems
        unknown = [each for each in parts if self._known(each) is None]
        documents: list[Document] = []
        parsed: dict[str, tuple[Place, Parsed]] = {}
        stands: dict[str, str] = {}
        new = iter(parse_parts(unknown, self._mesh))
        for each in parts:
            found = self._known(each) or next(new)
            if found.problems:
                problems.setdefault(each.file, found.problems)
            parsed[each.part.text] = Place(each.file, each.part.line), found
            documents += found.documents
            stands.update((str(document.head.name), each.part.text) for document in found.documents)
        self._parsed = parsed
        if problems:
            raise PolicyError(*(problem for file in sorted(problems) for problem in problems[file]))
        return PolicyTexts(require_unique(documents), stands, signature)

    def _known(self, named: NamedPart) -> Parsed | None:
        """What is known of a part already; of a bad one only where it stood, which the message names."""
        known = self._parsed.get(named.part.text)
        if known is None:
            return None
        before, parsed = known
        place = Place(named.file, named.part.line)
        if before == place:
            return parsed
        return None if parsed.problems else Parsed(_moved(parsed.documents, before, place))

    def _read(self) -> tuple[dict[str, str], Signature]:
        """All files as they were at one moment: read again when something changed meanwhile."""
        if (self.directory / JOURNAL).exists():
            _require_trustworthy(
                self.directory, self.directory.stat()
            )  # or anybody could have files exchanged
            finish_replacement(self.directory)
        for _ in range(_ATTEMPTS):
            before = self.signature()
            try:
                texts = {entry[0]: self._read_file(entry[0]) for entry in _bounded(before or ())}
            except FileNotFoundError:
                continue
            if self.signature() == before:
                return texts, before or ()
        raise self._restless()

    def _read_file(self, name: str) -> str:
        path = self.directory / name
        try:
            with open_regular(path) as file:
                _require_trustworthy(path, os.fstat(file.fileno()))
                return file.read(MAX_BYTES).decode("utf-8")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise PolicyError(f"{path}: cannot be read, {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise PolicyError(f"{path}: is not UTF-8, at byte {error.start}") from error


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Collect no garbage meanwhile: looking through a million new objects again and again takes two thirds of the time.

    If there are many, they are kept out of later collections too, each of which would hold up every connection. They
    have no cycles, so they go when nobody needs them any more.
    """
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > MANY_OBJECTS:
            gc.freeze()
        gc.enable()


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, and nothing that only looks like one; PolicyError for that, OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise PolicyError(f"{path}: is not a file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(fd)


def _moved(documents: tuple[Document, ...], before: Place, place: Place) -> tuple[Document, ...]:
    """The documents of a part that stood elsewhere before."""
    down = place.line - before.line

    def moved(document: Document) -> Document:
        at = document.head.place
        return replace(
            document, head=replace(document.head, place=Place(place.file, at.line + down, at.column))
        )

    return tuple(map(moved, documents))


def _require_trustworthy(path: Path, status: os.stat_result) -> None:
    """Refuse a file or directory that somebody else may change; who owns a directory may exchange what is in it."""
    if status.st_uid not in (0, os.geteuid()):
        raise PolicyError(f"{path}: belongs to uid {status.st_uid}, who may change it: chown it to root")
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid()):
        raise PolicyError(f"{path}: group {status.st_gid} may change it, take that right away: chmod g-w")
    if status.st_mode & stat.S_IWOTH:
        raise PolicyError(f"{path}: everybody may change it, take that right away: chmod o-w")


def _bounded(signature: Signature) -> Signature:
    if len(signature) > MAX_FILES:
        raise PolicyError(f"there are {len(signature)} policy files, at most {MAX_FILES} are allowed")
    size = sum(entry[2] for entry in signature)
    if size > MAX_BYTES:
        raise PolicyError(f"the policy files have {size} bytes, at most {MAX_BYTES} are allowed")
    return signature


def _sign(name: str, status: os.stat_result) -> tuple[str, int, int, int, int]:
    # Not st_mtime: that one can be set back, and says nothing of a change of rights or owner.
    return (name, status.st_ino, status.st_size, status.st_ctime_ns, status.st_uid)
