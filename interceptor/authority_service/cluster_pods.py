"""A further condition for certificates, in a cluster: the Kubernetes API shows such a pod on the node that asks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from interceptor.authority.refusal import Code, Refused
from interceptor.pod_admission.pod_index import PodIndex

if TYPE_CHECKING:
    from interceptor.identity.spiffe_id import SpiffeId
    from interceptor.kubernetes.cluster_watch import ClusterWatch

# A node hears of its new pods by a watch of its own, often before our watch does.
PATIENCE_SECONDS: Final = 3.0
LOOK_SECONDS: Final = (
    0.25  # an index of many pods takes milliseconds to make, so it is not made for each change
)
MAX_WAITING: Final = 20  # requests of one node: who asks for what it does not have must not fill the service


class ClusterPods:
    """An Admission by the pods that `watch` knows; whoever owns the watch runs it."""

    def __init__(self, watch: ClusterWatch) -> None:
        self._watch = watch
        self._made_from = watch.cluster
        self._made_at = trio.current_time()
        self._index = PodIndex(self._made_from)
        self._waiting: Counter[str] = Counter()

    async def require(self, node: str, spiffe_id: SpiffeId) -> None:
        """Raise Refused unless a pod with this identity is on the node, now or a moment later."""
        deadline = trio.current_time() + PATIENCE_SECONDS
        while (refused := self._refusal(node, spiffe_id)) is not None:
            if trio.current_time() >= deadline or self._waiting[node] >= MAX_WAITING:
                raise refused
            await self._wait(node)

    def _refusal(self, node: str, spiffe_id: SpiffeId) -> Refused | None:
        now = trio.current_time()
        if self._watch.cluster is not self._made_from and now - self._made_at >= LOOK_SECONDS:
            self._made_from, self._made_at = self._watch.cluster, now
            self._index = PodIndex(self._made_from)
        try:
            self._index.require(node, spiffe_id)
        except Refused as refused:
            return self._explained(refused)
        return None

    def _explained(self, refused: Refused) -> Refused:
        """With why the pods are not known, when they are not."""
        if refused.code is not Code.AUTHORITY_UNAVAILABLE or not self._watch.problems:
            return refused
        return Refused(refused.code, f"{refused.message}: {self._watch.problems[0]}")

    async def _wait(self, node: str) -> None:
        self._waiting[node] += 1
        try:
            await trio.sleep(LOOK_SECONDS)
        finally:
            self._waiting[node] -= 1
            if not self._waiting[node]:
                del self._waiting[node]
