"""Certificates that cannot be had, in the log: a line for each cause and not for each workload, and one when it is over."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

AGAIN_SECONDS = 600.0


@dataclass(slots=True)
class _Outage:
    since: float
    said_at: float
    waiting: set[str] = field(default_factory=set)
    met: set[str] = field(default_factory=set)
    attempts: int = 0
    is_counted: bool = False  # whether the count was said


class OutageLog:
    """What goes wrong with all renewals of one node; instants are seconds of a clock that is not set."""

    def __init__(self) -> None:
        self._outages: dict[str, _Outage] = {}
        self._cause_of: dict[str, str] = {}

    def failed(self, name: str, cause: str, now: float) -> None:
        """An attempt failed: said for the first one, with the count when all have had time to fail, and then rarely."""
        if self._cause_of.get(name, cause) != cause:
            self.forget(name)
        outage = self._outages.get(cause)
        if outage is None:
            log.warning("no certificate for %s: %s", name, cause)
            outage = self._outages[cause] = _Outage(now, now)
        outage.attempts += 1
        is_second_round = name in outage.waiting
        outage.waiting.add(name)
        outage.met.add(name)
        self._cause_of[name] = cause
        if (is_second_round and not outage.is_counted and len(outage.waiting) > 1) or (
            now - outage.said_at >= AGAIN_SECONDS
        ):
            outage.is_counted, outage.said_at = True, now
            log.warning(
                "no certificates for %d, %d attempts failed in %.0f s: %s",
                len(outage.waiting),
                outage.attempts,
                now - outage.since,
                cause,
            )

    def succeeded(self, name: str, now: float) -> None:
        """A certificate was issued; said when the last one is that waited for the same cause to go."""
        cause = self._cause_of.get(name)
        if cause is None:
            return
        outage = self._outages[cause]
        self.forget(name)
        if not outage.waiting:
            log.info(
                "certificates are issued again after %.0f s: %d had waited, %d attempts had failed: %s",
                now - outage.since,
                len(outage.met),
                outage.attempts,
                cause,
            )

    def forget(self, name: str) -> None:
        """Nobody asks for this one any more, or it fails for another reason."""
        cause = self._cause_of.pop(name, None)
        if cause is None:
            return
        outage = self._outages[cause]
        outage.waiting.discard(name)
        if not outage.waiting:
            del self._outages[cause]
