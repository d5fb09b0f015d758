"""Tell the authority what this node believes, which roots its certificates lead to, and which workloads it has."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import trio

from interceptor.errors import InterceptorError
from interceptor.identity.rotation import backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from interceptor.authority.reports import NodeReport

log = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
# Changes come together: workloads that start, certificates that follow a new root.
GATHER_SECONDS = 0.3
_randomness = random.SystemRandom()


class Reporter:
    """Sends a report after each change, and now and then without one."""

    def __init__(
        self,
        make: Callable[[], NodeReport],
        send: Callable[[NodeReport], Awaitable[None]],
        on_sent: Callable[[], None],
    ) -> None:
        self._make = make
        self._send = send
        self._on_sent = on_sent
        self._changed = trio.Event()
        self.last_failure: InterceptorError | None = None

    @property
    def last_error(self) -> str | None:
        return None if self.last_failure is None else str(self.last_failure)

    def changed(self) -> None:
        """Something that is reported may have changed."""
        self._changed.set()

    async def send_last(self, seconds: float) -> None:
        """Report once more, if the authority takes it within the time: we are about to end."""
        try:
            with trio.move_on_after(seconds):
                await self._send(self._make())
        except InterceptorError as error:
            log.warning("the authority does not hear that this node has no workloads any more: %s", error)

    async def run(self) -> None:
        """Until cancelled; what could not be sent is sent again, as it is by then."""
        attempt = 0
        while True:
            self._changed = trio.Event()
            try:
                await self._send(self._make())
            except InterceptorError as error:
                if str(error) != self.last_error:
                    log.warning("the authority does not take this node's report: %s", error)
                self.last_failure = error
                pause = min(backoff(attempt, _randomness.random()).total_seconds(), EVERY_SECONDS)
                attempt += 1
            else:
                attempt, self.last_failure, pause = 0, None, EVERY_SECONDS
                self._on_sent()
            with trio.move_on_after(pause):
                await self._changed.wait()
            await trio.sleep(GATHER_SECONDS)
