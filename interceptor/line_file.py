"""A file of whole lines that only grows, is rotated, and that only its owner can read. **Does I/O.**"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class LineFile:
    """Appends lines to `path` (mode 0600); beyond `max_bytes` it becomes `path.1`, that `path.2`, up to `keep` of them.

    The file is opened at each write, so that it may be moved or removed at any time.
    """

    def __init__(self, path: Path, max_bytes: int, *, keep: int = 1) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep

    def write(self, lines: Iterable[str]) -> None:
        """Append all lines, or none: OSError leaves no part of them behind."""
        data = "".join(f"{line}\n" for line in lines).encode()
        self._rotate_before(len(data))
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(fd).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            except OSError:
                with suppress(OSError):  # the first failure is the one to tell
                    os.ftruncate(fd, before)  # half a line would spoil the next one
                raise
        finally:
            os.close(fd)

    def _rotate_before(self, more: int) -> None:
        if not self.path.exists() or self.path.stat().st_size + more <= self._max_bytes:
            return
        for number in range(self._keep - 1, 0, -1):
            if self._numbered(number).exists():
                self._numbered(number).replace(self._numbered(number + 1))
        self.path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
