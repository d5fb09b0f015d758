"""One replica of an authority that is in a Secret: what it does beside serving, until cancelled."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import trio

from interceptor.authority_service.cluster_nodes import ClusterNodes
from interceptor.authority_service.desk import DeskLimits
from interceptor.authority_service.leadership import Leadership
from interceptor.authority_service.pod_tokens import PodTokens
from interceptor.authority_service.policy_status import PolicyStatus
from interceptor.authority_service.replica import Replica
from interceptor.authority_service.serve import serve
from interceptor.authority_service.shared_state import SharedState
from interceptor.kubernetes.cluster_watch import ClusterWatch
from interceptor.kubernetes.resource import NAMESPACES, PODS
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import parse_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from interceptor.cluster.head import ObjectKey
    from interceptor.identity.spiffe_id import TrustDomain
    from interceptor.kubernetes.client import ApiClient
    from interceptor.node_pods.policies import Parse
    from interceptor.policy.documents import Document
    from interceptor.shared_authority.names import SharedAuthority
    from interceptor.workload import Endpoint


def _parser(trust_domain: TrustDomain) -> Parse:
    """The parser of the agents, of which our manifests leave everything else as it is by default."""
    mesh = MeshNames(trust_domain=trust_domain.name)

    def parse(place: str, text: str) -> tuple[Document, ...]:
        return parse_file(place, text, mesh)

    return parse


async def serve_shared(
    shared: SharedAuthority,
    agents: ObjectKey,
    client: ApiClient,
    address: Endpoint,
    *,
    me: str,
    home: Path,
    passphrase: bytes | None,
    audit_path: Path,
    now: Callable[[], datetime],
    ready: Callable[[Endpoint], None],
    metrics: Endpoint | None = None,
) -> None:
    """Wait until there is an authority, making it if this replica leads, and serve it.

    `me` is a name that no other replica has.  `home` is where it works, of our own and in memory; nodes join by tokens
    of the pods of the service account `agents`.  InterceptorError as of `serve`, and when the Secret holds the
    authority of another trust domain.
    """
    leadership = Leadership(client, shared.lease, me, now)
    replica = Replica(
        client, SharedState(client, shared.secret, home, passphrase), shared.roots, leadership, now
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leadership.run)
        store = await replica.open(shared.trust_domain)
        with closing(store):
            pods = ClusterWatch(client, (NAMESPACES, PODS))
            nodes = ClusterNodes(client, pods, agents, shared.nodes)
            began_at = store.issuer(now()).root.not_valid_before_utc
            policies = PolicyStatus(client, leadership, _parser(shared.trust_domain), me, now)
            async with trio.open_nursery() as tasks:
                tasks.start_soon(policies.run, shared.secret.namespace)
                for task in (replica.follow, replica.lead):
                    tasks.start_soon(task, store)
                for task_of_nodes in (nodes.follow, nodes.tell):
                    tasks.start_soon(task_of_nodes, store, began_at)
                await serve(
                    store,
                    address,
                    audit_path=audit_path,
                    now=now,
                    ready=ready,
                    # Nodes come back by their pods' tokens: one of ours would be known to one replica only.
                    desk_limits=DeskLimits(return_period=timedelta(0)),
                    pods=pods,
                    proof=PodTokens(client, pods, agents),
                    metrics=metrics,
                )
