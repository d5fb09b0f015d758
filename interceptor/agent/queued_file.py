"""A file of lines that is written behind the back of whoever appends: nothing blocks, and a full disk loses lines."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from interceptor.line_file import LineFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_QUEUED = 100_000  # what waits for a disk that does not keep up

T = TypeVar("T")


class QueuedFile(Generic[T]):
    """Appends things to a file, one line each, and says how many were lost; `what` is their name in messages."""

    def __init__(
        self, path: Path, max_bytes: int, what: str, format_line: Callable[[T], str], *, keep: int = 1
    ) -> None:
        self._file = LineFile(path, max_bytes, keep=keep)
        self._max_bytes = max_bytes
        self._what = what
        self._format = format_line
        self._queue: deque[T] = deque()
        self._lost = 0
        self._failing = False

    def append(self, thing: T) -> None:
        """Queue one; its line is made when it is written."""
        if len(self._queue) < MAX_QUEUED:
            self._queue.append(thing)
        else:
            self._lost += 1

    def flush(self) -> None:
        """Write everything that is queued; called from one thread at a time."""
        lines: list[str] = []
        size = 0
        while self._queue:
            line = self._format(self._queue.popleft())
            size += len(line.encode()) + 1
            if (
                lines and size > self._max_bytes
            ):  # a burst fills several files, none of which is larger than allowed
                self._write(lines)
                lines, size = [], len(line.encode()) + 1
            lines.append(line)
        if lines:
            self._write(lines)

    def _write(self, lines: list[str]) -> None:
        try:
            self._file.write(lines)
        except OSError as error:
            self._lost += len(lines)
            if not self._failing:  # said once, the log may be on the same disk
                log.warning("%s are lost: cannot write %s (%s)", self._what, self._file.path, error.strerror)
            self._failing = True
        else:
            if self._failing:
                log.warning(
                    "%s is written again; %s lost so far: %d", self._file.path, self._what, self._lost
                )
            self._failing = False
