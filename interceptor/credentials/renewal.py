"""One certificate for ever: issued, kept, and replaced by the next at 50 to 60 % of its life.

A valid certificate is never given up because a renewal failed; its owner goes on
with it, and the failure is shown until a renewal succeeds.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import trio

from interceptor.errors import AuthorityError, InterceptorError, utc
from interceptor.identity.rotation import EARLIEST_RENEWAL, JITTER, LATEST_RENEWAL, backoff, renewal_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime, timedelta

    from interceptor.credentials.outage_log import OutageLog
    from interceptor.credentials.signing_queue import SigningQueue

# The wall clock can be set, and a suspended machine's timers stand still: look
# at it at least this often, however long the certificate still lives.
CLOCK_CHECK_SECONDS = 30.0
# After 60 % of a life and an outage of a third of it, 7 % are left: whoever pauses for longer than this may miss them.
LONGEST_PAUSE_SHARE = 0.05
_randomness = random.SystemRandom()


class Certified(Protocol):
    """Something with a life: `issued_at` is when we received it, from which its life is counted."""

    @property
    def issued_at(self) -> datetime: ...

    @property
    def not_before(self) -> datetime: ...

    @property
    def not_after(self) -> datetime: ...


C = TypeVar("C", bound=Certified)


class Renewal(Generic[C]):
    """Keeps one certificate fresh; what is known of it can be read at any time.

    certificate  the one in use, None before the first
    renew_at     when the next one is due
    renewals     how many were issued
    last_failure, last_error   why the last attempt failed, None when it did not
    """

    def __init__(
        self,
        name: str,
        issue: Callable[[], Awaitable[C]],
        queue: SigningQueue,
        now: Callable[[], datetime],
        outages: OutageLog,
    ) -> None:
        """`issue` asks the authority once; `name` is whose certificate it is, for `outages`, which logs failures."""
        self._name = name
        self._issue = issue
        self._queue = queue
        self._now = now
        self._outages = outages
        self._hurry = trio.Event()
        self._attempt_at = 0.0  # of trio's clock: the next attempt after a failed one
        self.certificate: C | None = None
        self.renew_at: datetime | None = None
        self.renewals = 0
        self.last_failure: InterceptorError | None = None

    @property
    def last_error(self) -> str | None:
        return None if self.last_failure is None else str(self.last_failure)

    async def run(
        self, use: Callable[[C], None], failed: Callable[[str], None], *, first: C | None = None
    ) -> None:
        """Issue, `use`, wait, and again, until cancelled; `first` is a certificate that is there already."""
        if first is not None:
            self._adopt(first)
            use(first)
        try:
            while True:
                if self.certificate is not None:
                    await self._wait_until_due(self.certificate)
                certificate = await self._issue_in_the_end(failed)
                self._outages.succeeded(self._name, trio.current_time())
                self._adopt(certificate)
                self.renewals += 1
                use(certificate)
        finally:
            self._outages.forget(self._name)

    def bring_forward(self, spread: timedelta) -> None:
        """Renew at a random moment within `spread` from now, unless it is due by then; so also after a failure."""
        moment = spread * _randomness.random()
        if self.renew_at is not None and self.renew_at > self._now() + spread:
            self.renew_at = self._now() + moment
        if self._attempt_at > trio.current_time() + spread.total_seconds():
            self._attempt_at = trio.current_time() + moment.total_seconds()
        self._hurry.set()

    def _adopt(self, certificate: C) -> None:
        fraction = _randomness.uniform(EARLIEST_RENEWAL, LATEST_RENEWAL)
        self.certificate = certificate
        self.renew_at = renewal_time(certificate.issued_at, certificate.not_after, fraction)
        self.last_failure = None

    async def _wait_until_due(self, certificate: C) -> None:
        """Until it is time to renew, which it also is when the clock was set back to before the certificate."""
        assert self.renew_at is not None
        while certificate.not_before <= (now := self._now()) < self.renew_at:
            await self._sleep(min((self.renew_at - now).total_seconds(), CLOCK_CHECK_SECONDS))

    async def _issue_in_the_end(self, failed: Callable[[str], None]) -> C:
        attempt = 0
        while True:
            try:
                async with self._queue.place(urgent=not self._has_valid()):
                    return self._checked(await self._issue())
            except InterceptorError as error:
                self.last_failure = error
                failed(str(error))
                pause = self._pause(attempt)
                self._outages.failed(self._name, str(error), trio.current_time())
                attempt += 1
                self._attempt_at = trio.current_time() + pause
                while trio.current_time() < self._attempt_at:
                    await self._sleep(self._attempt_at - trio.current_time())

    def _pause(self, attempt: int) -> float:
        """Seconds until the next attempt: ever longer, but never more than a small part of the certificate's life."""
        jitter = _randomness.random()
        pause = backoff(attempt, jitter)
        if self.certificate is not None:
            life = self.certificate.not_after - self.certificate.issued_at
            pause = min(pause, life * LONGEST_PAUSE_SHARE * (1 - JITTER * jitter))
        return pause.total_seconds()

    def _has_valid(self) -> bool:
        return self.certificate is not None and self.certificate.not_after > self._now()

    def _checked(self, certificate: C) -> C:
        """AuthorityError for one without life left: asking again at once would bring the next of its kind."""
        if certificate.not_after <= (now := self._now()):
            raise AuthorityError(
                f"the authority issued a certificate that expired at {utc(certificate.not_after)}, now is {utc(now)}: "
                "compare the clocks, and see whether its intermediate is about to expire"
            )
        return certificate

    async def _sleep(self, seconds: float) -> None:
        """At most so long, or until somebody is in a hurry."""
        self._hurry = trio.Event()
        with trio.move_on_after(seconds):
            await self._hurry.wait()
