"""The three ways by which a node comes in: a token of the operator's, one of its agent's pod, or its return token."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import trio

from interceptor.authority.admission import ANY, AllowPattern
from interceptor.authority.refusal import Code, Refused
from interceptor.authority.return_tokens import RECENTLY, ReturnToken
from interceptor.authority.tokens import PodToken
from interceptor.authority_service.store_calls import in_thread
from interceptor.errors import InvalidInput

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from interceptor.authority.node_documents import Join
    from interceptor.authority_service.audit import Attempt, Audit
    from interceptor.authority_store import AuthorityStore
    from interceptor.identity.node_id import NodeId

log = logging.getLogger(__name__)


class NodeProof(Protocol):
    """How nodes prove themselves that have no token of ours."""

    async def node(self, token: str) -> str:
        """The name of the node that a pod's token proves; raises Refused."""


class Doors:
    """Lets nodes in, each once for a token; `proof` is for tokens of pods, None when nobody joins by them."""

    def __init__(
        self, store: AuthorityStore, audit: Audit, period: timedelta, proof: NodeProof | None
    ) -> None:
        """`period` is how long a return token is good for; nothing means that there are none."""
        self._store = store
        self._audit = audit
        self._period = period
        self._proof = proof
        self._heard_at: dict[str, float] = {}  # of nodes that have proven themselves

    def heard(self, node: str) -> None:
        """A node has asked for something, with its certificate."""
        self._heard_at[node] = trio.current_time()

    async def knock(self, node_id: NodeId, token: str) -> None:
        """Raise Refused for whoever need not be looked at any further: nothing is used up yet."""
        if PodToken.is_meant(token):
            await self._require_pod_of(node_id, token)

    async def open(self, attempt: Attempt, node_id: NodeId, request: Join, now: datetime) -> datetime | None:
        """Use the token up; returns until when the node may come back with the one that it offers, None for never."""
        if ReturnToken.is_meant(request.token):
            return await self._come_back(attempt, node_id.name, request, now)
        self._audit.begun(attempt)
        if PodToken.is_meant(request.token):
            await in_thread(self._store.let_in, node_id.name, (AllowPattern(ANY, ANY),), now)
            return None
        offered = request.return_hash if self._period else ""
        taken = await in_thread(self._store.redeem_token, request.token, node_id.name, now, offered)
        return now + self._period if taken else None

    async def renewed(self, node: str, offered: str, now: datetime) -> datetime | None:
        """A node that is in gets its next certificate, and offers its next token: until when it may come back with it.

        None, with the token before as good as it was, when that cannot be kept: an authority whose disk is full renews.
        """
        if not offered or not self._period:
            return None
        try:
            taken = await in_thread(self._store.offer_return, node, offered, now)
        except Refused:
            return None
        return now + self._period if taken else None

    async def _come_back(self, attempt: Attempt, node: str, request: Join, now: datetime) -> datetime | None:
        if not self._period:
            raise Refused(
                Code.RETURN_TOKEN_EXPIRED, "this authority takes no return tokens (--return-period 0s)"
            )
        heard_at = self._heard_at.get(node)
        silent = None if heard_at is None else trio.current_time() - heard_at
        attempt.facts["by"] = "return token"
        attempt.facts["last_heard_seconds"] = None if silent is None else round(silent, 1)
        self._audit.begun(attempt)
        taken = await in_thread(
            self._store.redeem_return, request.token, node, request.return_hash, self._period, now
        )
        if silent is not None and silent < RECENTLY.total_seconds():
            # A node that was booted again comes so soon, and so does whoever has a copy of its disk.
            log.warning("%s came back with its return token, and was heard %.1f s before", node, silent)
            self._audit.returned_while_active(attempt)
        return now + self._period if taken else None

    async def _require_pod_of(self, node_id: NodeId, text: str) -> None:
        """Raise Refused unless a pod's token proves the node. What it may ask for then is for its pods to say."""
        if self._proof is None:
            raise Refused(Code.POD_TOKEN_REFUSED, "nodes do not join this authority by tokens of pods")
        try:
            token = PodToken.parse(text)
        except InvalidInput as error:
            raise Refused(Code.POD_TOKEN_REFUSED, str(error)) from None
        found = await self._proof.node(token.secret)
        if found != node_id.name:
            raise Refused(Code.NOT_A_NODE_AGENT, f"the token is of a pod on {found}, not on {node_id.name}")
