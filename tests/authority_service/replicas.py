"""Replicas of an authority whose state is in a Secret of an API server made for tests."""

from __future__ import annotations

import json
from base64 import b64decode
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import trio
from starlette.routing import Route

from interceptor.authority_client import AuthorityClient
from interceptor.authority_service import leadership, replica
from interceptor.authority_service.serve_shared import serve_shared
from interceptor.cluster.cluster import Kind
from interceptor.cluster.head import ObjectKey
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient
from interceptor.pod_admission.token_review import PATH as REVIEWS
from interceptor.shared_authority import lease
from interceptor.shared_authority.names import SharedAuthority
from interceptor.workload import Endpoint
from tests.authority_service.running import DOMAIN, Clock, free_port
from tests.authority_service.test_pod_tokens import Reviewer
from tests.cluster.api_objects import MESH, namespace, pod
from tests.kubernetes.api_server import ApiServer, running
from tests.kubernetes.named_objects import NamedObjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    import pytest

AGENT = ObjectKey("interceptor", "interceptor-agent")
SHARED = SharedAuthority(DOMAIN, ObjectKey("interceptor", "interceptor-authority"))
SECRET = "/api/v1/namespaces/interceptor/secrets/interceptor-authority"
ROOTS = "/api/v1/namespaces/interceptor/configmaps/interceptor-authority-root"
NODES = "/api/v1/namespaces/interceptor/configmaps/interceptor-authority-nodes"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/interceptor/leases/interceptor-authority"
DEADLINE_SECONDS = 30  # two replicas, an API server and the nodes share a processor with other tests


@dataclass
class ClusterOfReplicas:
    """The API, and the replicas that run."""

    api: ApiServer
    kept: NamedObjects
    reviewer: Reviewer
    directory: Path
    nursery: trio.Nursery
    clients: list[AuthorityClient] = field(default_factory=list)

    async def start(self, name: str, clock: Clock | None = None) -> Running:
        running = self.begin(name, clock)
        with trio.fail_after(DEADLINE_SECONDS):
            await running.ready.wait()
        return running

    def begin(self, name: str, clock: Clock | None = None) -> Running:
        """The same without waiting until it serves."""
        home = self.directory / name
        home.mkdir(mode=0o700, exist_ok=True)
        running = Running(name, home, Endpoint(ip_address("127.0.0.1"), free_port()), clock or Clock())
        self.nursery.start_soon(running.run, self.api)
        return running

    async def client(self, replica: Running, node: str = "node-1") -> AuthorityClient:
        """The client of a node's agent, which joins at one replica by the token of its pod."""
        client = AuthorityClient(replica.endpoint, DOMAIN, node, Clock())
        self.clients.append(client)
        root = self.kept.objects[ROOTS]["data"]["root.sha256"].strip()
        with trio.fail_after(DEADLINE_SECONDS):
            await client.join(f"ip1.{root}.token-of-{node}")
        return client

    def moved(self, client: AuthorityClient, replica: Running, node: str = "node-1") -> AuthorityClient:
        """The same node, which now talks to another replica."""
        other = AuthorityClient(replica.endpoint, DOMAIN, node, Clock())
        self.clients.append(other)
        assert client.svid is not None
        assert client.document is not None
        other.resume(client.svid, client.document)
        return other

    def state(self) -> dict[str, Any]:
        """The state in the Secret."""
        state: dict[str, Any] = json.loads(self.content(SECRET, "state.json"))
        return state

    def content(self, path: str, name: str) -> bytes:
        return b64decode(self.kept.objects[path]["data"][name])

    def written(self, path: str) -> int:
        return sum(each.endswith(path) for each in self.kept.writes)


@dataclass
class Running:
    """One replica; `stop` ends it, `die` without a word to the API."""

    name: str
    home: Path
    endpoint: Endpoint
    clock: Clock
    ready: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self, api: ApiServer) -> None:
        try:
            with self.scope:
                async with ApiClient(ApiAccess(api.url, None, None)) as client:
                    await serve_shared(
                        SHARED,
                        AGENT,
                        client,
                        self.endpoint,
                        me=self.name,
                        home=self.home,
                        passphrase=None,
                        audit_path=self.home / "audit.jsonl",
                        now=self.clock,
                        ready=lambda _: self.ready.set(),
                    )
        finally:
            self.ended.set()

    async def stop(self) -> None:
        self.scope.cancel()
        await self.ended.wait()


@asynccontextmanager
async def cluster_of_replicas(directory: Path) -> AsyncIterator[ClusterOfReplicas]:
    """Two nodes with an agent each, and on node-1 a pod of shop/web."""
    api, reviewer = ApiServer(bookmark_seconds=0.1), Reviewer()
    kept = NamedObjects(api)
    api.routes.append(Route(REVIEWS, reviewer._answer, methods=["POST"]))
    api.put(Kind.NAMESPACE, namespace("shop", labels=MESH))
    api.put(Kind.POD, pod("shop/web-1", "10.0.0.1", account="web"))
    for number in (1, 2):
        node, name = f"node-{number}", f"agent-{number}"
        api.put(Kind.POD, pod(f"interceptor/{name}", account=AGENT.name, node=node, host_network=True))
        reviewer.bind(f"token-of-{node}", f"interceptor/{name}", account=AGENT.name, node=node)
    async with running(api), trio.open_nursery() as nursery:
        cluster = ClusterOfReplicas(api, kept, reviewer, directory, nursery)
        try:
            yield cluster
        finally:
            for client in cluster.clients:
                client.close()
            nursery.cancel_scope.cancel()


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits as short as the rules allow."""
    for module in (lease, leadership):
        for name, seconds in (("GOOD_SECONDS", 1.0), ("RENEW_SECONDS", 0.1), ("LOOK_SECONDS", 0.1)):
            monkeypatch.setattr(module, name, seconds)
    monkeypatch.setattr(lease, "DURATION_SECONDS", 2)
    for name, seconds in (("FOLLOW_SECONDS", 0.1), ("DUTY_SECONDS", 0.2), ("START_SECONDS", 0.1)):
        monkeypatch.setattr(replica, name, seconds)
    monkeypatch.setattr("interceptor.authority_service.cluster_nodes.TELL_SECONDS", 0.1)
    monkeypatch.setattr("interceptor.authority_service.cluster_nodes.LOOK_SECONDS", 0.1)


async def until(condition: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> None:
    async def holds() -> object:
        return condition()

    await eventually(holds, seconds)


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float = DEADLINE_SECONDS) -> None:
    with trio.fail_after(seconds):
        while True:
            if await condition():
                return
            await trio.sleep(0.02)
