"""What the authority did, and for whom: a JSON line for each certificate and each refusal, and never a secret.

A certificate whose line cannot be written is not handed out: what an authority cannot account for, it must not do.
A refusal is answered all the same.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from interceptor.authority.admission import RateLimiter
from interceptor.authority.refusal import Code, Refused
from interceptor.errors import utc
from interceptor.line_file import LineFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from cryptography import x509

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 64 * 1024 * 1024
KEPT_FILES = 8  # beside the one that is written
# Refusals that cost nothing to provoke must not wash the rest out of the files: lines a second, and at once.
STRANGERS_PER_SECOND, STRANGERS_AT_ONCE = 10.0, 1000


@dataclass(slots=True)
class Attempt:
    """What is known of one request, filled in as it becomes known."""

    what: str
    peer: str
    node: str | None = None  # as it says, until it is proven
    identity: str | None = None
    is_proven: bool = False


class Audit:
    """Writes the audit of one authority."""

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        self._file = LineFile(path, MAX_FILE_BYTES, keep=KEPT_FILES)
        self._now = now
        self._failing = False
        self._strangers = RateLimiter(STRANGERS_PER_SECOND, STRANGERS_AT_ONCE)
        self._unwritten = 0

    def begun(self, attempt: Attempt) -> None:
        """Something that cannot be taken back is about to be done; Refused when this cannot be written."""
        self._write_or_refuse(self._line("begun", attempt))

    def issued(self, attempt: Attempt, leaf: x509.Certificate) -> None:
        """A certificate was made and is about to be handed out; Refused when this cannot be written."""
        line = self._line(
            "issued", attempt, serial=f"{leaf.serial_number:x}", not_after=utc(leaf.not_valid_after_utc)
        )
        self._write_or_refuse(line)

    def refused(self, attempt: Attempt, refused: Refused) -> None:
        """A request was refused; of strangers and of nodes that ask too often, only so many lines are written."""
        more: dict[str, object] = {}
        if not attempt.is_proven or refused.code is Code.RATE_LIMITED:
            try:
                self._strangers.take("", trio.current_time())
            except Refused:
                self._unwritten += 1
                return
            more, self._unwritten = {"unwritten_before": self._unwritten}, 0
        self._try_to_write(
            self._line("refused", attempt, code=refused.code.value, message=refused.message, **more)
        )

    def _line(self, event: str, attempt: Attempt, **more: object) -> str:
        line: dict[str, object] = {
            "time": self._now().isoformat(timespec="milliseconds"),
            "event": event,
            "request": attempt.what,
            "node": attempt.node,
            "identity": attempt.identity,
            "peer": attempt.peer,
        }
        return json.dumps({**line, **more}, separators=(",", ":"))

    def _write_or_refuse(self, line: str) -> None:
        if not self._try_to_write(line):
            raise Refused(
                Code.AUTHORITY_UNAVAILABLE,
                "the authority cannot write its audit file, and does nothing that it cannot account for: see its log",
            )

    def _try_to_write(self, line: str) -> bool:
        try:
            self._file.write([line])
        except OSError as error:
            if not self._failing:  # said once, the log may be on the same disk
                log.error("nothing is issued: cannot write %s (%s)", self._file.path, error.strerror)  # noqa: TRY400
            self._failing = True
            return False
        if self._failing:
            log.warning("%s is written again", self._file.path)
        self._failing = False
        return True
