"""What operators did to an authority: a line before each change, and one with what came of it, beside the service's.

A change whose line cannot be written is not made, as a certificate is not issued then. A revocation is: what protects
must not wait for a disk.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from interceptor.authority_service.audit import KEPT_FILES, MAX_FILE_BYTES
from interceptor.errors import AuthorityError, InterceptorError
from interceptor.line_file import LineFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path


def command_line(
    event: str, command: str, by: Mapping[str, object], facts: Mapping[str, object], now: datetime
) -> str:
    """One line of the audit; `facts` hold no token and no key."""
    head = {"time": now.isoformat(timespec="milliseconds"), "event": event, "request": f"ca {command}"}
    return json.dumps({**head, "by": dict(by), **facts}, separators=(",", ":"))


class CommandAudit:
    """Appends to the audit of one authority for one operator; `warn` is told of what could not be written."""

    def __init__(
        self,
        path: Path,
        by: Mapping[str, object],
        now: Callable[[], datetime],
        warn: Callable[[str], None],
    ) -> None:
        self._file = LineFile(path, MAX_FILE_BYTES, keep=KEPT_FILES)
        self._by = by
        self._now = now
        self._warn = warn

    @contextmanager
    def noting(
        self, command: str, *, protects: bool = False, **values: object
    ) -> Iterator[dict[str, object]]:
        """Note that a change is about to be made, let it be made, and note what came of it.

        The block may put facts of its own into what it is given. AuthorityError, with nothing changed, when the first
        line cannot be written, unless the change `protects`.
        """
        error = self._write("command_begun", command, {"values": values})
        if error and not protects:
            raise AuthorityError(
                f"cannot write the audit file {self._file.path} ({error}), nothing was changed: make it writable, then "
                "repeat"
            )
        result: dict[str, object] = {}
        try:
            yield result
        except InterceptorError as failure:
            self._write("command_failed", command, {"values": values, "error": str(failure)})
            raise
        error = self._write("command_done", command, {"values": values, "result": result}) or error
        if error:
            self._warn(
                f"the change was made, but it is not in the audit file {self._file.path}, which cannot be written ({error})"
            )

    def _write(self, event: str, command: str, facts: Mapping[str, object]) -> str | None:
        """Why it could not be written; None when it was."""
        try:
            self._file.write([command_line(event, command, self._by, facts, self._now())])
        except OSError as error:
            return error.strerror or str(error)
        return None
