"""Serve an authority until told to stop: everything that must be right first, in order, each failure one line."""

from __future__ import annotations

import logging
import secrets
import signal
import socket
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from interceptor.agent.clock import wall_clock
from interceptor.agent.process import forbid_core_dumps, log_to_stderr, raise_descriptor_limit, single_cause
from interceptor.authority.return_tokens import DEFAULT_PERIOD
from interceptor.authority_service import DeskLimits, serve
from interceptor.authority_service.pod_tokens import PodTokens
from interceptor.authority_service.serve_shared import serve_shared
from interceptor.authority_service.shared_state import prepare_home
from interceptor.authority_store import AuthorityStore
from interceptor.kubernetes.client import ApiClient
from interceptor.kubernetes.cluster_watch import ClusterWatch
from interceptor.kubernetes.resource import NAMESPACES, PODS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from pathlib import Path

    from interceptor.cluster.head import ObjectKey
    from interceptor.kubernetes.access import ApiAccess
    from interceptor.shared_authority.names import SharedAuthority
    from interceptor.workload import Endpoint

log = logging.getLogger(__name__)

AUDIT_FILE = "audit.jsonl"


@dataclass(frozen=True, slots=True)
class ServedAuthority:
    """Which authority is served, and where; the audit is written to its directory unless it is to be elsewhere.

    With `api` nodes get certificates only for pods that the Kubernetes API there shows on them; with `agents`, a service
    account, they may join by the tokens of its pods. Nodes come back by themselves within
    `return_period`. Who watches it asks at `metrics`. With `shared` too the authority is the one in a Secret, which other
    replicas serve as well, and the directory, which should be in memory, is only where this one works.
    """

    directory: Path
    passphrase: bytes | None
    address: Endpoint
    audit_path: Path | None
    api: ApiAccess | None = None
    agents: ObjectKey | None = None
    return_period: timedelta = DEFAULT_PERIOD
    metrics: Endpoint | None = None
    shared: SharedAuthority | None = None


def run_authority(served: ServedAuthority, progress: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `progress` is told when nodes can connect.

    InterceptorError says why it could not start, or go on.
    """
    log_to_stderr()
    raise_descriptor_limit()
    forbid_core_dumps()
    with ExitStack() as stack:
        if served.shared is None:
            store = AuthorityStore.open(served.directory, wall_clock(), passphrase=served.passphrase)
            stack.enter_context(closing(store))
            store.keep_audit_path(None if served.audit_path is None else served.audit_path.absolute())
            main = partial(_serve, store)
        else:
            prepare_home(served.directory)
            main = partial(_serve_shared, served.shared)
        try:
            trio.run(main, served, progress)
        except BaseExceptionGroup as group:
            raise single_cause(group) from None


async def _serve(store: AuthorityStore, served: ServedAuthority, progress: Callable[[str], None]) -> None:
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, nursery.cancel_scope)
        pods = proof = None
        if served.api is not None:
            client = await stack.enter_async_context(ApiClient(served.api))
            pods = ClusterWatch(client, (NAMESPACES, PODS))
            proof = None if served.agents is None else PodTokens(client, pods, served.agents)
        await serve(
            store,
            served.address,
            audit_path=served.audit_path or served.directory / AUDIT_FILE,
            now=wall_clock,
            ready=lambda address: progress(f"serving the authority of {store.trust_domain} on {address}"),
            desk_limits=DeskLimits(return_period=served.return_period),
            pods=pods,
            proof=proof,
            metrics=served.metrics,
        )


async def _serve_shared(
    shared: SharedAuthority, served: ServedAuthority, progress: Callable[[str], None]
) -> None:
    assert served.api is not None, "a Secret is in a cluster"
    assert served.agents is not None, "nodes have no other way to join"
    async with ApiClient(served.api) as client, trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, nursery.cancel_scope)
        await serve_shared(
            shared,
            served.agents,
            client,
            served.address,
            me=f"{socket.gethostname()}-{secrets.token_hex(4)}",  # a pod's name, and a container that is started again
            home=served.directory,
            passphrase=served.passphrase,
            audit_path=served.audit_path or served.directory / AUDIT_FILE,
            now=wall_clock,
            ready=lambda address: progress(f"serving the authority of {shared.trust_domain} on {address}"),
            metrics=served.metrics,
        )


async def _stop_on_signal(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("stopping on %s", signal.Signals(number).name)
            scope.cancel()
