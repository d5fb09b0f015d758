"""The nodes of a cluster at one replica: who they are says the API, and what they told goes to the other replicas."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from interceptor.authority_service.shared_objects import read, write
from interceptor.errors import ClusterError, InterceptorError, InvalidInput
from interceptor.pod_admission.agent_nodes import agent_nodes
from interceptor.shared_authority.node_facts import (
    FACTS,
    facts_text,
    merged,
    news_of_others,
    parse_facts,
    records_of,
)
from interceptor.shared_authority.objects import Holder

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from interceptor.authority_store import AuthorityStore
    from interceptor.cluster.head import ObjectKey
    from interceptor.kubernetes.client import ApiClient
    from interceptor.kubernetes.cluster_watch import ClusterWatch
    from interceptor.shared_authority.node_facts import Facts
    from interceptor.shared_authority.objects import Stored

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0  # between two looks at the pods, however often they change
TELL_SECONDS: Final = 10.0


class ClusterNodes:
    """Keeps the nodes of `store` as the API shows them; `facts` is the ConfigMap that the replicas share."""

    def __init__(self, client: ApiClient, watch: ClusterWatch, agent: ObjectKey, facts: ObjectKey) -> None:
        self._client = client
        self._watch = watch
        self._agent = agent
        self._facts = facts
        self._failing = False

    async def follow(self, store: AuthorityStore, began_at: datetime) -> None:
        """Let the store know exactly the nodes that have an agent, until cancelled.

        Certificates of a node from `began_at` on are good: another replica may have let it in long ago.
        """
        known: frozenset[str] | None = None
        while True:
            cluster = self._watch.cluster
            if cluster.pods.is_listed and (nodes := agent_nodes(cluster, self._agent)) != known:
                try:
                    await trio.to_thread.run_sync(_know, store, nodes, began_at)
                    known = nodes
                except InterceptorError as error:
                    log.error("cannot keep which nodes there are: %s", error)  # noqa: TRY400
            await trio.sleep(LOOK_SECONDS)
            while self._watch.cluster is cluster:
                await self._watch.wait_changed()

    async def tell(self, store: AuthorityStore, began_at: datetime) -> None:
        """Write what nodes have told this replica where the others, and the steps of a rotation, find it; and hear them."""
        while True:
            await trio.sleep(TELL_SECONDS)
            try:
                await self._tell(store, began_at)
            except InterceptorError as error:
                if not self._failing:
                    log.error("rotations wait: cannot write what nodes have told: %s", error)  # noqa: TRY400
                self._failing = True
            else:
                self._failing = False

    async def _tell(self, store: AuthorityStore, began_at: datetime) -> None:
        if not self._watch.cluster.pods.is_listed:
            return
        nodes = agent_nodes(self._watch.cluster, self._agent)
        records = await trio.to_thread.run_sync(store.nodes)
        since = store.head().rotation.since
        before = await read(self._client, Holder.CONFIG_MAP, self._facts)
        known = _parsed(self._facts, before)
        facts = merged(known, records, nodes, since)
        if heard := news_of_others(facts, records):
            await trio.to_thread.run_sync(store.know_nodes, records_of(heard, heard, began_at))
        if facts != known or before is None:
            # When another replica is faster, what we know is told the next time.
            await write(self._client, Holder.CONFIG_MAP, self._facts, {FACTS: facts_text(facts)}, before)


async def nodes_for_a_step(
    client: ApiClient, facts: ObjectKey, nodes: frozenset[str], began_at: datetime
) -> Callable[[AuthorityStore], None]:
    """What lets a copy of the authority know the nodes and what they told, for a step that must ask them; ClusterError."""
    known = _parsed(facts, await read(client, Holder.CONFIG_MAP, facts))
    records = records_of(known, nodes, began_at)

    def know(store: AuthorityStore) -> None:
        store.know_nodes(records)

    return know


def _parsed(key: ObjectKey, stored: Stored | None) -> Facts:
    if stored is None or FACTS not in stored.content:
        return {}
    try:
        return parse_facts(stored.content[FACTS])
    except InvalidInput as error:
        raise ClusterError(f"ConfigMap {key} cannot be used: {error}: delete it, nodes tell again") from None


def _know(store: AuthorityStore, nodes: frozenset[str], began_at: datetime) -> None:
    known = {record.name for record in store.nodes()}
    store.know_nodes(records_of({}, nodes - known, began_at))
    for name in known - nodes:
        store.remove_node(name)
