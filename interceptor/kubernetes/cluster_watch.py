"""All kinds as one snapshot that is always current: the one informer layer, which everything that needs it shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from interceptor.cluster.cluster import Cluster
from interceptor.kubernetes.informer import Informer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.cluster.cluster import ClusterEvent
    from interceptor.kubernetes.client import ApiClient
    from interceptor.kubernetes.resource import Resource


class ClusterWatch:
    """`cluster` is what is known now; the informers hand their events over without a queue, so none can grow."""

    def __init__(self, client: ApiClient, resources: Iterable[Resource]) -> None:
        self.cluster = Cluster()
        self._informers = [Informer(client, resource, self._apply, self._wake) for resource in resources]
        self._changed = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for informer in self._informers:
                nursery.start_soon(informer.run)

    @property
    def waiting_for(self) -> list[str]:
        """What was not listed yet."""
        return [informer.what for informer in self._informers if not informer.is_synced]

    def why_not(self, what: str) -> str | None:
        """Why one of those that are waited for cannot be listed, None when it only takes its time."""
        return next((each.last_error for each in self._informers if each.what == what), None)

    @property
    def problems(self) -> list[str]:
        """What cannot be followed, and which objects cannot be read, one line each."""
        errors = [
            f"{each.what}: {each.last_error}" for each in self._informers if each.last_error is not None
        ]
        return [*errors, *self.cluster.problems()]

    async def wait_synced(self) -> Cluster:
        """Wait until everything was listed."""
        while self.waiting_for:
            await self.wait_changed()
        return self.cluster

    async def wait_changed(self) -> Cluster:
        """Wait for the next change of the cluster, of what is waited for, or of the problems; several are one."""
        await self._changed.wait()
        return self.cluster

    def _apply(self, event: ClusterEvent) -> None:
        self.cluster = self.cluster.apply(event)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
