"""Events, sent to the API as their log says; what cannot be sent waits there, or is told together later."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import trio

from interceptor.cluster_status.bodies import (
    JSON_MERGE,
    event_body,
    event_name,
    events_path,
    repetition_body,
)
from interceptor.cluster_status.events import NewEvent
from interceptor.kubernetes.client import MAX_STATUS_BYTES
from interceptor.kubernetes.status_writer import Outcome, StatusWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from interceptor.cluster_status.events import EventLog, Repetition
    from interceptor.kubernetes.client import ApiClient


class EventSender:
    """Sends what `log` has due, one after the other; `writer.problem` says why it cannot."""

    def __init__(
        self,
        client: ApiClient,
        log: EventLog,
        controller: str,
        instance: str,
        now: Callable[[], datetime],
    ) -> None:
        """The two names say who tells it: which controller, and which one of those."""
        self._client = client
        self._controller = controller
        self._instance = instance
        self._now = now
        self._salt = secrets.token_hex(8)
        self.log = log
        self.writer = StatusWriter("what happened, as Events,")

    async def send(self) -> None:
        """Everything that is due now, unless it cannot be sent."""
        if not self.writer.may_try:
            return
        for told in self.log.due(trio.current_time()):
            outcome = await self.writer.attempt(
                self._create(told) if isinstance(told, NewEvent) else self._count(told)
            )
            if outcome is Outcome.LATER:
                self.log.put_back(told)
                return

    async def _create(self, event: NewEvent) -> None:
        body = event_body(event, self._salt, self._controller, self._instance, self._now())
        await self._client.post(events_path(event.happening.subject), body, MAX_STATUS_BYTES)

    async def _count(self, repetition: Repetition) -> None:
        path = f"{events_path(repetition.happening.subject)}/{event_name(repetition, self._salt)}"
        await self._client.patch(path, repetition_body(repetition, self._now()), JSON_MERGE)
