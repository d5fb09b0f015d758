"""One kind, followed without end: a list, and from its version on a watch that is resumed wherever it broke off."""

from __future__ import annotations

import logging
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import trio

from interceptor.cluster.cluster import Removed
from interceptor.cluster.wire import Bookmark, Failure, parse_watch_line
from interceptor.errors import ClusterError, InvalidInput
from interceptor.identity.rotation import backoff
from interceptor.kubernetes.client import ApiRefusal
from interceptor.kubernetes.listing import list_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.cluster.cluster import ClusterEvent
    from interceptor.kubernetes.client import ApiClient
    from interceptor.kubernetes.resource import Resource

log = logging.getLogger(__name__)

LONGEST_PAUSE: Final = timedelta(seconds=30)
STEADY_SECONDS: Final = 10.0  # a watch that lasted so long was a good one
# The server ends a watch after so many seconds, drawn anew: those of many nodes do not all end at once.
WATCH_SECONDS: Final = (300, 600)
_GONE: Final = 410
_randomness = random.SystemRandom()


class Informer:
    """Tells `on_event` the list, and then each change, as the API has them.

    is_synced   whether it was listed once: what is known stays in force while the API is away
    last_error  why it cannot be followed now, None when it can
    """

    def __init__(
        self,
        client: ApiClient,
        resource: Resource,
        on_event: Callable[[ClusterEvent], None],
        on_state: Callable[[], None],
    ) -> None:
        """`on_state` is told when `is_synced` or `last_error` has changed."""
        self._client = client
        self._resource = resource
        self._on_event = on_event
        self._on_state = on_state
        self._version: int | None = None  # everything up to it was told; None: list first
        self.is_synced = False
        self.last_error: str | None = None

    @property
    def what(self) -> str:
        """What it follows, for messages."""
        return self._resource.kind.value.replace("_", " ")

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            started = trio.current_time()
            error = await self._round()
            lasted = trio.current_time() - started
            failures = 0 if lasted >= STEADY_SECONDS else failures + 1
            if error is not None:
                self._report(error)
            if error is not None or failures:
                pause = min(backoff(max(failures - 1, 0), _randomness.random()), LONGEST_PAUSE)
                await trio.sleep(pause.total_seconds())

    async def _round(self) -> ClusterError | None:
        """List if that must be, and watch until it ends; what went wrong, if anything did."""
        try:
            if self._version is None:
                await self._list()
            await self._watch()
        except InvalidInput as error:
            # After garbage nothing that was sent can be relied on: begin with a list.
            self._version = None
            return ClusterError(f"{self.what}: the API's answer cannot be used: {error}")
        except ApiRefusal as error:
            if error.status != _GONE:
                return error
            self._version = None  # the API does not keep its past for long, and that is no failure
        except ClusterError as error:
            return error
        return None

    async def _list(self) -> None:
        found = await list_all(self._client, self._resource)
        self._on_event(found)
        self._version = found.version
        if not self.is_synced:
            self.is_synced = True
            self._on_state()
        self._well()

    async def _watch(self) -> None:
        parameters = {
            **self._resource.parameters,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(self._version),
            "timeoutSeconds": str(_randomness.randint(*WATCH_SECONDS)),
        }
        await self._client.follow(self._resource.path, parameters, self._resource.accept_watch, self._take)
        self._well()

    def _take(self, line: bytes) -> None:
        event = parse_watch_line(self._resource.kind, line)
        match event:
            case Failure():
                raise ApiRefusal(event.code, f"{self.what}: the API ended the watch: {event.message}")
            case Bookmark():
                self._advance(event.version)
            case Removed():
                self._on_event(event)
                self._advance(event.head.version)
            case _:
                self._on_event(event)
                self._advance(event.object.head.version)
        self._well()

    def _advance(self, version: int) -> None:
        # An event that is repeated or late does not take us back.
        self._version = max(self._version or 0, version)

    def _well(self) -> None:
        if self.last_error is not None:
            log.info("%s: the Kubernetes API is back", self.what)
            self.last_error = None
            self._on_state()

    def _report(self, error: ClusterError) -> None:
        if str(error) != self.last_error:
            log.warning("%s stay as they are: %s", self.what, error)
            self.last_error = str(error)
            self._on_state()
