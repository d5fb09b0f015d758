"""What the authority did, and for whom: a JSON line for each certificate and each refusal, and never a secret.

A certificate whose line cannot be written is not handed out: what an authority cannot account for, it must not do.
A refusal is answered all the same.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from interceptor.authority.admission import RateLimiter
from interceptor.authority.refusal import Code, Refused
from interceptor.authority.repeats import Repeats
from interceptor.errors import InvalidInput, utc
from interceptor.identity.leaf_profile import shown_name
from interceptor.identity.node_id import NodeId
from interceptor.identity.spiffe_id import AUTHORITY, NODE, SCHEME
from interceptor.line_file import LineFile
from interceptor.telemetry.authority_series import AuthorityCounts

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
# A node that may not speak to us any more goes on asking, and so does whoever shows a certificate of somebody else's.
REPEAT_SECONDS = 60.0
_OLD_COPIES = frozenset({Code.RETURN_TOKEN_USED, Code.RETURN_TOKEN_REPLACED})


@dataclass(slots=True)
class Attempt:
    """What is known of one request, filled in as it becomes known.

    facts        more that its lines are to say
    certificate  what the client's certificate says, which leads to a root of ours, but may have ended or been revoked
    """

    what: str
    peer: str
    node: str | None = None  # as it says, until it is proven
    identity: str | None = None
    is_proven: bool = False
    facts: dict[str, object] = field(default_factory=dict)
    certificate: dict[str, str | None] | None = None

    def shown(self, leaf: x509.Certificate) -> None:
        """The client has shown this certificate."""
        name = shown_name(leaf)
        self.certificate = {"identity": name, "serial": f"{leaf.serial_number:x}"}
        with suppress(InvalidInput):
            self.node = NodeId.parse(name or "").name


class Audit:
    """Writes the audit of one authority."""

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        self._file = LineFile(path, MAX_FILE_BYTES, keep=KEPT_FILES)
        self._now = now
        # From nothing to one is no increase that Prometheus would see.
        self.counts = AuthorityCounts(refused=Counter(dict.fromkeys(Code, 0)))
        self._strangers = RateLimiter(STRANGERS_PER_SECOND, STRANGERS_AT_ONCE)
        self._unwritten = 0
        self._repeats = Repeats(REPEAT_SECONDS)

    def begun(self, attempt: Attempt) -> None:
        """Something that cannot be taken back is about to be done; Refused when this cannot be written."""
        self._write_or_refuse(self._line("begun", attempt))

    def issued(self, attempt: Attempt, leaf: x509.Certificate) -> None:
        """A certificate was made and is about to be handed out; Refused when this cannot be written."""
        line = self._line(
            "issued", attempt, serial=f"{leaf.serial_number:x}", not_after=utc(leaf.not_valid_after_utc)
        )
        self._write_or_refuse(line)
        self.counts.issued[_kind(attempt.identity)] += 1

    def is_well(self) -> bool:
        """Whether it can be written, as far as is known; where it could not, by trying again."""
        if not self.counts.is_audit_written:
            self._try_to_write(self._line("written_again", Attempt("health", "here")))
        return self.counts.is_audit_written

    def returned_while_active(self, attempt: Attempt) -> None:
        """A node came back with its return token so soon after it was heard that there may be two of it."""
        self._try_to_write(self._line("returned_while_active", attempt))

    def refused(self, attempt: Attempt, refused: Refused) -> None:
        """A request was refused.

        Of strangers and of nodes that ask too often, only so many lines are written; of whoever shows what was worth
        something once, one a minute, with the count.
        """
        self.counts.refused[refused.code] += 1
        more: dict[str, object] = {}
        if attempt.certificate is not None and not attempt.is_proven:
            more["certificate"] = attempt.certificate
        if (repeated := self._repeated(attempt, refused)) is not None:
            if repeated < 0:
                return
            more["repeated"] = repeated
        elif not attempt.is_proven or refused.code is Code.RATE_LIMITED:
            try:
                self._strangers.take("", trio.current_time())
            except Refused:
                self._unwritten += 1
                return
            more["unwritten_before"], self._unwritten = self._unwritten, 0
        self._try_to_write(
            self._line("refused", attempt, code=refused.code.value, message=refused.message, **more)
        )

    def _repeated(self, attempt: Attempt, refused: Refused) -> int | None:
        """How many lines like this one were not written; -1 for this one too; None when each of them is."""
        if attempt.is_proven or refused.code is Code.RATE_LIMITED:
            return None
        if attempt.certificate is not None:
            who: object = tuple(attempt.certificate.values())
        elif refused.code in _OLD_COPIES:
            who = attempt.node
        else:
            return None
        again = self._repeats.again((who, refused.code), trio.current_time())
        return -1 if again is None else again

    def _line(self, event: str, attempt: Attempt, **more: object) -> str:
        line: dict[str, object] = {
            "time": self._now().isoformat(timespec="milliseconds"),
            "event": event,
            "request": attempt.what,
            "node": attempt.node,
            "identity": attempt.identity,
            "peer": attempt.peer,
            **attempt.facts,
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
            if self.counts.is_audit_written:  # said once, the log may be on the same disk
                log.error("nothing is issued: cannot write %s (%s)", self._file.path, error.strerror)  # noqa: TRY400
            self.counts.is_audit_written = False
            return False
        if not self.counts.is_audit_written:
            log.warning("%s is written again", self._file.path)
        self.counts.is_audit_written = True
        return True


def _kind(identity: str | None) -> str:
    """What a certificate is for, by the path of its identity."""
    kind = (identity or "").removeprefix(SCHEME).partition("/")[2].partition("/")[0]
    return {NODE: "node", AUTHORITY: "service"}.get(kind, "workload")
