"""Follow something that the authority keeps: ask for what is new, take it over, and ask again, without end.

What was taken over stays in force while the authority is away.
"""

from __future__ import annotations

import logging
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from interceptor.errors import InterceptorError
from interceptor.identity.rotation import backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

# Not the two and a half minutes of a renewal: a revocation must arrive within seconds when the authority is back.
LONGEST_PAUSE = timedelta(seconds=5)
_randomness = random.SystemRandom()

T = TypeVar("T")
K = TypeVar("K")


class Subscription(Generic[T, K]):
    """One thing that is followed.

    heard_at    when the authority last answered, in seconds of trio's clock; None before that
    last_failure, last_error   why the last question was not answered, None when it was
    """

    def __init__(
        self,
        what: str,
        fetch: Callable[[K | None], Awaitable[T]],
        key: Callable[[T], K],
        adopt: Callable[[T], Awaitable[None]],
        *,
        known: K | None = None,
        longest_pause: timedelta = LONGEST_PAUSE,
        on_return: Callable[[], None] = lambda: None,
    ) -> None:
        """`fetch` waits until there is something else than the known key; `on_return` is told after an outage."""
        self._what = what
        self._fetch = fetch
        self._key = key
        self._adopt = adopt
        self._known = known
        self._longest_pause = longest_pause
        self._on_return = on_return
        self.heard_at: float | None = None
        self.last_failure: InterceptorError | None = None

    @property
    def last_error(self) -> str | None:
        return None if self.last_failure is None else str(self.last_failure)

    def confirm(self) -> None:
        """The authority has answered another question: unless this one has failed, what is known is current."""
        if self.last_error is None:
            self.heard_at = trio.current_time()

    async def run(self) -> None:
        """Until cancelled."""
        attempt = 0
        while True:
            try:
                # After a failure the answer is wanted at once, news or not: only then do we know that it is over.
                found = await self._fetch(self._known if self.last_error is None else None)
                await self._take(found)
            except InterceptorError as error:
                if str(error) != self.last_error:
                    log.warning("%s stays as it is: %s", self._what, error)
                self.last_failure = error
                pause = min(backoff(attempt, _randomness.random()), self._longest_pause)
                attempt += 1
                await trio.sleep(pause.total_seconds())
            else:
                attempt = 0

    async def _take(self, found: T) -> None:
        key = self._key(found)
        if key != self._known:
            await self._adopt(found)
            self._known = key
        was_away, self.last_failure = self.last_failure is not None, None
        self.heard_at = trio.current_time()
        if was_away:
            log.info("%s: the authority is back", self._what)
            self._on_return()
