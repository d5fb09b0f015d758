"""A file of whole lines that only grows, is rotated, and that only its owner can read. **Does I/O.**"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

LOCK_SECONDS: Final = 1.0  # whoever has the lock writes some lines, and no more
_LOCK_PAUSE: Final = 0.001


class LineFile:
    """Appends lines to `path` (mode 0600); beyond `max_bytes` it becomes `path.1`, that `path.2`, up to `keep` of them.

    The file is opened at each write, so that it may be moved or removed at any time. Several processes may append to
    it, and rotate it: each holds the file's lock meanwhile, and looks whether it is still the one of that name.
    """

    def __init__(self, path: Path, max_bytes: int, *, keep: int = 1) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep

    def write(self, lines: Iterable[str]) -> None:
        """Append all lines, or none: OSError leaves no part of them behind."""
        data = "".join(f"{line}\n" for line in lines).encode()
        with self._locked() as fd:
            if not self._must_rotate(fd, len(data)):
                _append(fd, data)
                return
            self._rotate()
            with self._locked() as fresh:  # nobody else rotates what is new, unless it is full already
                _append(fresh, data)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file that has the name now, held against all others."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                _lock(fd, deadline)
                if self._is_current(fd):
                    yield fd
                    return
            finally:
                os.close(fd)

    def _is_current(self, fd: int) -> bool:
        """Whether the file has still the name: somebody may have rotated it while we waited."""
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat())
        except FileNotFoundError:
            return False

    def _must_rotate(self, fd: int, more: int) -> bool:
        size = os.fstat(fd).st_size
        return size > 0 and size + more > self._max_bytes

    def _rotate(self) -> None:
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        self.path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _lock(fd: int, deadline: float) -> None:
    """Take the file's lock; OSError when its holder, which may have been stopped, does not let go of it in time."""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, "another process holds its lock") from None
            time.sleep(_LOCK_PAUSE)
        else:
            return


def _append(fd: int, data: bytes) -> None:
    before = os.fstat(fd).st_size
    # A process that was killed, or a power failure, may have left half a line.
    view = memoryview(data if not before or os.pread(fd, 1, before - 1) == b"\n" else b"\n" + data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        with suppress(OSError):  # the first failure is the one to tell
            os.ftruncate(fd, before)  # half a line would spoil the next one
        raise
