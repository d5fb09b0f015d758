"""The directory of policy documents, read as one set: all of its files as they were at one moment, or an error."""

from __future__ import annotations

import contextlib
import gc
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

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
    """The files as they were read: `documents` of all, and the text of each by its name.

    Of the documents so many are `objects` of a cluster's API, None where there is no cluster.
    """

    documents: tuple[Document, ...]
    texts: Mapping[str, str]
    signature: Signature
    objects: int | None = None

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

    def signature(self) -> object:
        """What is there, to see whether it changed; PolicyError if unreadable."""

    def load(self, changed: Mapping[str, str] | None = None) -> PolicyTexts:
        """The set that is there, with some files' texts replaced by `changed`; PolicyError when there is none."""


class PolicyFiles:
    """One directory; what did not change since the last time is not parsed again. Used by one thread at a time."""

    def __init__(self, directory: Path, mesh: MeshNames) -> None:
        self.directory = directory
        self._mesh = mesh
        # The documents of each part of a file by its text, wherever it stands.
        self._parsed: dict[str, tuple[Place, tuple[Document, ...]]] = {}

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
                raise PolicyError(
                    f"the policies in {self.directory} cannot be read: {error.strerror}"
                ) from error
        if Path(missing).is_symlink():
            raise PolicyError(
                f"{missing}: is a link to a file that is not there, remove it or put the file there"
            )
        raise self._restless()

    def _sign_all(self) -> Signature:
        _require_trustworthy(self.directory, self.directory.stat())
        with os.scandir(self.directory) as entries:
            found = [entry for entry in entries if _is_policy_file(entry.name)]
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
        unknown = [each for each in parts if each.part.text not in self._parsed]
        documents: list[Document] = []
        parsed: dict[str, tuple[Place, tuple[Document, ...]]] = {}
        new = iter(parse_parts(unknown, self._mesh))
        for each in parts:
            known = self._parsed.get(each.part.text)
            place = Place(each.file, each.part.line)
            found = next(new) if known is None else Parsed(_moved(known, place))
            if found.problems:
                problems.setdefault(each.file, found.problems)
            else:
                parsed[each.part.text] = place, found.documents
                documents += found.documents
        self._parsed = parsed
        if problems:
            raise PolicyError(*(problem for file in sorted(problems) for problem in problems[file]))
        return PolicyTexts(require_unique(documents), texts, signature)

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
            # Opened by a number, which is kept when it turns out to be a directory: it has to be closed here.
            with _descriptor(path) as fd, os.fdopen(fd, "rb", closefd=False) as file:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise PolicyError(f"{path}: is not a file")
                _require_trustworthy(path, status)
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
def _descriptor(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _moved(known: tuple[Place, tuple[Document, ...]], place: Place) -> tuple[Document, ...]:
    """The documents of a part that stood elsewhere before."""
    before, documents = known
    if before == place:
        return documents
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
    if status.st_mode & stat.S_IWOTH:
        raise PolicyError(f"{path}: everybody may change it, take that right away: chmod o-w")


def _bounded(signature: Signature) -> Signature:
    if len(signature) > MAX_FILES:
        raise PolicyError(f"there are {len(signature)} policy files, at most {MAX_FILES} are allowed")
    size = sum(entry[2] for entry in signature)
    if size > MAX_BYTES:
        raise PolicyError(f"the policy files have {size} bytes, at most {MAX_BYTES} are allowed")
    return signature


def _is_policy_file(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _sign(name: str, status: os.stat_result) -> tuple[str, int, int, int, int]:
    # Not st_mtime: that one can be set back, and says nothing of a change of rights or owner.
    return (name, status.st_ino, status.st_size, status.st_ctime_ns, status.st_uid)
