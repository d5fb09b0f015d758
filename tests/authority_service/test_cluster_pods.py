"""An authority in a cluster issues for the pods that the API shows on a node, and for no other."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.authority_client import AuthorityRefusal
from interceptor.authority_service import cluster_pods
from interceptor.cluster.cluster import Kind
from interceptor.errors import AuthorityUnavailable
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient
from interceptor.kubernetes.cluster_watch import ClusterWatch
from interceptor.kubernetes.resource import NAMESPACES, PODS
from tests.authority_service.running import DOMAIN, Service
from tests.cluster.api_objects import MESH, namespace, pod
from tests.kubernetes.api_server import ApiServer, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from interceptor.authority_client import AuthorityClient

WEB, LEDGER = SpiffeId(DOMAIN, "shop", "web"), SpiffeId(DOMAIN, "bank", "ledger")


async def sign(client: AuthorityClient, spiffe_id: SpiffeId = WEB) -> None:
    request = create_signing_request(spiffe_id, create_private_key())
    with trio.fail_after(15):
        await client.sign(request, spiffe_id, timedelta(hours=1))


@asynccontextmanager
async def in_cluster(api: ApiServer, directory: Path) -> AsyncIterator[Service]:
    """An authority that follows the pods of `api`."""
    async with ApiClient(ApiAccess(api.url, None, None)) as client, trio.open_nursery() as nursery:
        watch = ClusterWatch(client, (NAMESPACES, PODS))
        service = Service(directory, options={"pods": watch})
        await service.start(nursery)
        try:
            yield service
        finally:
            await service.stop()
            service.close()
            nursery.cancel_scope.cancel()


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    """Two nodes: node-1 has a pod of shop/web, node-2 one of bank/ledger, both in the mesh."""
    api = ApiServer(bookmark_seconds=0.1)
    for name in ("shop", "bank"):
        api.put(Kind.NAMESPACE, namespace(name, labels=MESH))
    api.put(Kind.POD, pod("shop/web-1", "10.0.0.1", account="web"))
    api.put(Kind.POD, pod("bank/ledger-1", "10.0.0.2", account="ledger", node="node-2"))
    async with running(api):
        yield api


@pytest.fixture
async def cluster(api: ApiServer, tmp_path: Path) -> AsyncIterator[Service]:
    async with in_cluster(api, tmp_path) as service:
        yield service


async def test_node_gets_certificates_for_its_pods_and_a_refusal_for_others_which_is_audited(
    cluster: Service,
) -> None:
    """A malicious node: it may have anything by its token, and asks for what runs elsewhere."""
    client = await cluster.joined("node-1")
    await sign(client)
    with pytest.raises(AuthorityRefusal) as caught:
        await sign(client, LEDGER)
    assert caught.value.code == "pod_not_on_node"
    last = cluster.audit("refused")[-1]
    assert (last["code"], last["identity"]) == ("pod_not_on_node", str(LEDGER))
    assert "node-1 may not have" in last["message"]
    assert [line["identity"] for line in cluster.audit("issued")].count(str(LEDGER)) == 0


async def test_patterns_of_the_token_hold_beside_the_pods(cluster: Service) -> None:
    client = await cluster.joined("node-1", ["ns/bank/sa/*"])
    with pytest.raises(AuthorityRefusal) as caught:
        await sign(client)
    assert caught.value.code == "identity_not_on_node"


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Set when a request waits for a pod to be seen."""
    event, wait = trio.Event(), cluster_pods.ClusterPods._wait

    async def told(self: cluster_pods.ClusterPods, node: str) -> None:
        event.set()
        await wait(self, node)

    monkeypatch.setattr(cluster_pods.ClusterPods, "_wait", told)
    return event


async def test_pod_that_the_authority_sees_a_moment_later_is_waited_for(
    api: ApiServer, cluster: Service, waiting: trio.Event
) -> None:
    client = await cluster.joined("node-1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sign, client, LEDGER)
        await waiting.wait()
        api.put(Kind.POD, pod("bank/ledger-2", "10.0.0.3", account="ledger"))


async def test_pod_that_ends_or_moves_takes_its_identity_along(api: ApiServer, cluster: Service) -> None:
    first, second = await cluster.joined("node-1"), await cluster.joined("node-2")
    await sign(first)
    api.delete(Kind.POD, "shop/web-1")
    api.put(Kind.POD, pod("shop/web-2", "10.0.0.1", account="web", node="node-2"))
    await sign(second)  # waited for, so the authority has heard of both by then
    with pytest.raises(AuthorityRefusal) as caught:
        await sign(first)
    assert caught.value.code == "pod_not_on_node"


async def test_authority_that_does_not_know_the_pods_issues_nothing_and_says_why(tmp_path: Path) -> None:
    api = ApiServer()
    api.faults.refuse[Kind.POD] = 403
    async with running(api), in_cluster(api, tmp_path) as service:
        client = await service.joined("node-1")
        with pytest.raises(AuthorityUnavailable) as caught:
            await sign(client)
        assert "does not know the cluster's pods yet" in str(caught.value)
        assert "give the service account the right to get, list and watch it (RBAC)" in str(caught.value)


async def test_known_pods_get_certificates_while_the_api_is_away(api: ApiServer, cluster: Service) -> None:
    client = await cluster.joined("node-1")
    await sign(client)
    for kind in (Kind.POD, Kind.NAMESPACE):
        api.faults.refuse[kind] = 503
    api.cut_watches()
    await sign(client)


async def is_sent_away(client: AuthorityClient) -> None:
    """Ask for what is on the node until the authority has heard that it may not."""
    with trio.fail_after(10), suppress(AuthorityRefusal):
        while True:
            await sign(client)


async def test_node_that_is_removed_while_it_waits_gets_nothing(
    api: ApiServer, cluster: Service, waiting: trio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_pods, "PATIENCE_SECONDS", 12.0)
    client = await cluster.joined("node-1")
    codes: list[str] = []

    async def ask() -> None:
        with pytest.raises(AuthorityRefusal) as caught:
            await sign(client, LEDGER)
        codes.append(caught.value.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await waiting.wait()
        cluster.store.remove_node("node-1")
        await is_sent_away(client)
        api.put(Kind.POD, pod("bank/ledger-2", "10.0.0.3", account="ledger"))
    assert codes == ["node_revoked"]


async def test_node_with_many_requests_that_wait_is_refused_at_once(
    cluster: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await cluster.joined("node-1")
    await sign(client)
    monkeypatch.setattr(cluster_pods, "MAX_WAITING", 0)
    started = trio.current_time()
    with pytest.raises(AuthorityRefusal):
        await sign(client, LEDGER)
    assert trio.current_time() - started < cluster_pods.PATIENCE_SECONDS / 2
