"""What is written into the status of objects, as attempts: a failure is told once, and followed by a pause.

Nobody waits for what is written here, so nothing is gained by asking an API again that has just refused or is away.
"""

from __future__ import annotations

import logging
import math
import random
from datetime import timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import trio

from interceptor.errors import ClusterError, InterceptorError, InvalidInput
from interceptor.identity.rotation import MAX_BACKOFF, backoff
from interceptor.kubernetes.client import ApiRefusal

if TYPE_CHECKING:
    from collections.abc import Awaitable

log = logging.getLogger(__name__)

LONGEST_PAUSE: Final = timedelta(seconds=30)  # without a right it is longer, that is not given in a moment
_NO_RIGHT: Final = (401, 403)
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_GONE: Final = 404
_CONFLICT: Final = 409
_randomness = random.SystemRandom()


class Outcome(Enum):
    """What became of an attempt."""

    DONE = auto()
    GONE = auto()  # there is no such object
    CONFLICT = auto()  # it is not as it was thought to be: somebody was faster, or another one has its name
    REFUSED = auto()  # this one, and others may be taken
    LATER = auto()  # nothing can be written now


class StatusWriter:
    """Attempts of one kind; `problem` is why nothing can be written now, None while it can."""

    def __init__(self, what: str) -> None:
        """`what` is it that is written, for messages."""
        self._what = what
        self._failures = 0
        self._not_before = -math.inf
        self._complaint: str | None = None
        self.problem: str | None = None

    @property
    def may_try(self) -> bool:
        """Whether it makes sense to try now."""
        return trio.current_time() >= self._not_before

    async def attempt(self, write: Awaitable[object]) -> Outcome:
        """Await what writes; it may raise ClusterError, and InvalidInput for an object that cannot be told of."""
        try:
            await write
        except ApiRefusal as refusal:
            return self._refused(refusal)
        except ClusterError as error:
            return self._later(error, LONGEST_PAUSE)
        except InvalidInput as error:
            return self._cannot(error)
        self._well()
        return Outcome.DONE

    def _refused(self, refusal: ApiRefusal) -> Outcome:
        if refusal.status in _NO_RIGHT:
            return self._later(refusal, MAX_BACKOFF)
        if refusal.status == _TOO_MANY or refusal.status >= _SERVER_ERROR:
            return self._later(refusal, LONGEST_PAUSE)
        self._well()
        if refusal.status == _GONE:
            return Outcome.GONE
        return Outcome.CONFLICT if refusal.status == _CONFLICT else self._cannot(refusal)

    def _cannot(self, error: InterceptorError) -> Outcome:
        if str(error) != self._complaint:
            log.warning("%s cannot be written for one object: %s", self._what, error)
            self._complaint = str(error)
        return Outcome.REFUSED

    def _later(self, error: ClusterError, longest: timedelta) -> Outcome:
        if str(error) != self.problem:
            log.warning("%s cannot be written, nothing depends on it: %s", self._what, error)
        self.problem = str(error)
        pause = min(backoff(self._failures, _randomness.random()), longest)
        self._failures += 1
        self._not_before = trio.current_time() + pause.total_seconds()
        return Outcome.LATER

    def _well(self) -> None:
        if self.problem is not None:
            log.info("%s can be written again", self._what)
        self.problem, self._failures, self._not_before = None, 0, -math.inf
