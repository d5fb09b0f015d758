"""At most so many signing requests at once, and those that cannot wait before those that can.

After an outage of the authority everything is due together; a workload that has no certificate yet must not stand
behind a thousand that still have one.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PLACES = 8


class SigningQueue:
    """Places for signing requests; in each of the two lines, who comes first is served first."""

    def __init__(self, places: int = PLACES) -> None:
        self._free = places
        self._urgent: deque[trio.Event] = deque()
        self._patient: deque[trio.Event] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._urgent) + len(self._patient)

    @asynccontextmanager
    async def place(self, *, urgent: bool) -> AsyncIterator[None]:
        """Hold a place; `urgent` is for whoever has no certificate in use."""
        await self._take(self._urgent if urgent else self._patient)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, line: deque[trio.Event]) -> None:
        if self._free:
            self._free -= 1
            return
        turn = trio.Event()
        line.append(turn)
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():  # given to us at the moment in which we left
                self._give_back()
            else:
                line.remove(turn)
            raise

    def _give_back(self) -> None:
        for line in (self._urgent, self._patient):
            if line:
                line.popleft().set()
                return
        self._free += 1
