"""The whole service: one store, one address, until cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from interceptor.authority_service.audit import Audit
from interceptor.authority_service.cluster_pods import ClusterPods
from interceptor.authority_service.desk import AuthorityDesk
from interceptor.authority_service.server import Server, ServerLimits, listen
from interceptor.authority_service.watched import serve_metrics
from interceptor.workload import Endpoint, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from interceptor.authority_service.desk import DeskLimits
    from interceptor.authority_service.doors import NodeProof
    from interceptor.authority_store import AuthorityStore
    from interceptor.kubernetes.cluster_watch import ClusterWatch


async def serve(
    store: AuthorityStore,
    address: Endpoint,
    *,
    audit_path: Path,
    now: Callable[[], datetime],
    ready: Callable[[Endpoint], None],
    desk_limits: DeskLimits | None = None,
    server_limits: ServerLimits | None = None,
    pods: ClusterWatch | None = None,
    proof: NodeProof | None = None,
    metrics: Endpoint | None = None,
) -> None:
    """Serve one authority on one address, until cancelled.

    With `pods`, nodes get certificates only for theirs; with `proof` too, they may join by a token of their agent's pod.
    With `metrics` the service can be watched there.
    `ready` is told where, once nodes can connect.  InterceptorError when the store cannot be used, the audit file
    cannot be written, or the address is not free.
    """
    admission = None if pods is None else ClusterPods(pods)
    desk = AuthorityDesk(store, Audit(audit_path, now), now, desk_limits, admission, proof)
    server = Server(desk, now, server_limits or ServerLimits())
    with listen(address) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.views.run)
            if pods is not None:
                nursery.start_soon(pods.run)
            if metrics is not None:
                nursery.start_soon(serve_metrics, desk, metrics)
            nursery.start_soon(server.serve, listener)
            host, port = listener.getsockname()[:2]
            ready(Endpoint(parse_address(host), port))
