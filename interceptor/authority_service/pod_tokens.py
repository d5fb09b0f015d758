"""Nodes of a cluster prove themselves with their agent's own token, about which the Kubernetes API is asked."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from interceptor.authority.refusal import Code, Refused
from interceptor.authority_service.cluster_pods import PATIENCE_SECONDS
from interceptor.errors import ClusterError, InvalidInput
from interceptor.pod_admission.node_proof import proven_node
from interceptor.pod_admission.token_review import PATH, parse_review, review_request

if TYPE_CHECKING:
    from interceptor.cluster.head import ObjectKey
    from interceptor.kubernetes.client import ApiClient
    from interceptor.kubernetes.cluster_watch import ClusterWatch
    from interceptor.pod_admission.token_review import ProvenPod

log = logging.getLogger(__name__)

MAX_AT_ONCE: Final = 16


class PodTokens:
    """A NodeProof by the pods of one service account, which only the agents have."""

    def __init__(self, client: ApiClient, watch: ClusterWatch, agent: ObjectKey) -> None:
        self._client = client
        self._watch = watch
        self._agent = agent
        # Whoever can connect can make us ask: the API server has better things to do.
        self._at_once = trio.CapacityLimiter(MAX_AT_ONCE)

    async def node(self, token: str) -> str:
        """The name of the node on which the pod is that has the token; raises Refused."""
        try:
            review = review_request(token)
            async with self._at_once:
                answer = await self._client.post(PATH, review)
            proven = parse_review(answer)
        except (ClusterError, InvalidInput) as error:
            log.error("the API cannot be asked about a token: %s", error)  # noqa: TRY400
            raise Refused(
                Code.AUTHORITY_UNAVAILABLE,
                "the authority cannot ask the Kubernetes API about the token: see its log",
            ) from None
        return await self._proven(proven)

    async def _proven(self, proven: ProvenPod) -> str:
        """The node, also when our watch sees the pod only a moment after it has begun."""
        deadline = trio.current_time() + PATIENCE_SECONDS
        while True:
            try:
                return proven_node(proven, self._watch.cluster, self._agent)
            except Refused:
                if trio.current_time() >= deadline:
                    raise
            with trio.move_on_at(deadline):
                await self._watch.wait_changed()
