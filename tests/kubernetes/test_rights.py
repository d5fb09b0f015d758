"""The roles of our manifests grant what is really asked of the API, and nothing else."""

from __future__ import annotations

from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
import trio

from interceptor.authority.reports import NodeReport
from interceptor.cluster.cluster import Cluster, Kind
from interceptor.cluster.head import ObjectKey
from interceptor.cluster_status.bodies import STRATEGIC_MERGE, pod_status_path
from interceptor.cluster_status.events import EventLog, Happening, Subject
from interceptor.cluster_status.pod_events import pod_subject
from interceptor.cluster_status.token_bucket import TokenBucket
from interceptor.errors import ClusterError
from interceptor.identity.revocation import RevocationKind
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient, ApiRefusal
from interceptor.kubernetes.cluster_watch import ClusterWatch
from interceptor.kubernetes.event_sender import EventSender
from interceptor.kubernetes.listing import list_all, zone_of_node
from interceptor.kubernetes.removal import is_being_removed
from interceptor.kubernetes.resource import EVERYTHING, POLICIES, pods_of_account, pods_of_node
from interceptor.manifests.everything import everything, json_list
from interceptor.manifests.names import AGENT, AUTHORITY
from interceptor.manifests.values import Values
from tests.authority_service.replicas import NODES, SECRET, cluster_of_replicas, hurry, until
from tests.authority_service.running import Clock
from tests.authority_service.test_replicas import issued, step
from tests.cluster.api_objects import listed, namespace, policy
from tests.kubernetes.api_server import ApiServer, running
from tests.kubernetes.rbac import Rights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DAEMONSET = ObjectKey("interceptor", AGENT)


def rights_of(account: str) -> Rights:
    objects: list[dict[str, Any]] = json_list(everything(Values((ip_network("10.0.0.0/8"),))))["items"]
    return Rights(objects, account)


@asynccontextmanager
async def with_rights(
    api: ApiServer, account: str, daemonset: dict[str, Any] | None = None
) -> AsyncIterator[tuple[ApiClient, Rights]]:
    if daemonset is not None:
        api.daemonsets[AGENT] = daemonset
    rights = rights_of(account)
    api.forbids = rights.forbids
    async with running(api), ApiClient(ApiAccess(api.url, None, None)) as client:
        yield client, rights


async def test_agent_has_the_rights_that_it_needs_and_no_others() -> None:
    async with with_rights(ApiServer(), AGENT) as (client, rights), trio.open_nursery() as nursery:
        watch = ClusterWatch(client, (*EVERYTHING, *POLICIES))
        nursery.start_soon(watch.run)
        await watch.wait_synced()
        await zone_of_node(client, "node-1")
        await list_all(client, pods_of_node("node-1"))
        await is_being_removed(client, watch.cluster, DAEMONSET)
        await tell_of_a_pod(client)
        await until(lambda: not rights.unused)
        assert rights.refused == []
        nursery.cancel_scope.cancel()


async def tell_of_a_pod(client: ApiClient) -> None:
    """Its condition, an Event, and that it happened again; there is no such pod here."""
    with pytest.raises(ApiRefusal) as caught:
        await client.patch(pod_status_path(ObjectKey("shop", "web")), b'{"metadata": {}}', STRATEGIC_MERGE)
    assert caught.value.status == 404
    log = EventLog(TokenBucket(10, 1.0), Subject("v1", "Node", "", "node-1", "node-1"))
    events = EventSender(client, log, "interceptor.io/agent", "node-1", Clock())
    happening = Happening(pod_subject(ObjectKey("shop", "web"), "u"), True, "Degraded", "Enrol")
    for at in (0.0, 1.0):
        log.happened(happening, "it has no certificate", trio.current_time() - 100 + at)
        await events.send()


@pytest.mark.timeout(90)  # three deadlines of a replica
async def test_authority_has_the_rights_that_it_needs_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    for name in ("LOOK_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(f"interceptor.authority_service.policy_status.{name}", 0.1)
    monkeypatch.setattr("interceptor.cluster_status.events.COUNT_SECONDS", 0.1)
    rights = rights_of(AUTHORITY)
    async with cluster_of_replicas(tmp_path) as cluster:
        cluster.api.forbids = rights.forbids
        cluster.api.put(Kind.PEER_AUTHENTICATION, policy("shop/p"))
        cluster.api.put(Kind.AUTHORIZATION_POLICY, policy("shop/p", {"action": "PERHAPS"}))
        one = await cluster.start("one")
        await until(lambda: SECRET.replace("secrets", "configmaps") + "-root" in cluster.kept.objects)
        client = await cluster.client(one)
        await issued(client)
        trust = await client.trust(None)
        await client.report(NodeReport(trust.bundle_hash, trust.document_hash, (), (), Clock()()))
        await until(lambda: "node-1" in str(cluster.kept.objects.get(NODES)))
        await step(
            cluster,
            lambda store: store.revoke(
                RevocationKind.NODE, f"spiffe://{store.trust_domain}/node/x", "", Clock()()
            ),
        )
        await list_all_pods_of_agents(cluster.api)
        # What changes seldom: another root, and nodes that go.
        roots = cluster.kept.objects[f"{NODES.removesuffix('-nodes')}-root"]
        roots["data"]["root.sha256"] = "of before"
        cluster.api.delete(Kind.POD, "interceptor/agent-1")
        # A policy that is bad, good, and bad again.
        for action in ("DENY", "PERHAPS"):
            count = len(cluster.api.written.writes)
            cluster.api.put(Kind.AUTHORIZATION_POLICY, policy("shop/p", {"action": action}))
            await until(lambda count=count: len(cluster.api.written.writes) > count)
        await until(lambda: not rights.unused)
        assert rights.refused == []
        await one.stop()
    assert rights.refused == []


async def list_all_pods_of_agents(api: ApiServer) -> None:
    """As the commands do that ask nodes."""
    async with ApiClient(ApiAccess(api.url, None, None)) as client:
        await list_all(client, pods_of_account("interceptor", AGENT))


async def test_agent_may_not_read_secrets_nor_change_anything() -> None:
    async with with_rights(ApiServer(), AGENT) as (client, rights):
        for request in (
            client.get(SECRET, {}, "application/json"),
            client.post("/apis/authentication.k8s.io/v1/tokenreviews", b"{}"),
            client.put("/api/v1/namespaces/shop/pods/web", b"{}"),
        ):
            with pytest.raises(ApiRefusal) as caught:
                await request
            assert caught.value.status == 403
        assert len(rights.refused) == 3


def head(**metadata: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": AGENT,
            "namespace": "interceptor",
            "uid": "u",
            "resourceVersion": "1",
            **metadata,
        }
    }


@pytest.mark.parametrize(
    ("daemonset", "expected"),
    [(None, True), (head(), False), (head(deletionTimestamp="2026-11-24T12:00:00Z"), True)],
)
async def test_agent_sees_whether_its_daemonset_is_being_removed(
    daemonset: dict[str, Any] | None, expected: bool
) -> None:
    async with with_rights(ApiServer(), AGENT, daemonset) as (client, _):
        assert await is_being_removed(client, Cluster(), DAEMONSET) is expected


async def test_agent_knows_without_asking_that_its_namespace_is_deleting() -> None:
    space = namespace("interceptor")
    space["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    cluster = Cluster().apply(listed(Kind.NAMESPACE, 9, space, namespace("shop")))
    api = ApiServer()
    async with with_rights(api, AGENT, head()) as (client, _):
        api.is_away = True
        assert await is_being_removed(client, cluster, DAEMONSET)
        assert not await is_being_removed(client, cluster, ObjectKey("shop", AGENT))


async def test_agent_that_may_not_ask_leaves_what_is_attached(caplog: pytest.LogCaptureFixture) -> None:
    api = ApiServer()
    async with with_rights(api, AGENT) as (client, _):
        api.forbids = lambda *_: "the role is gone"
        assert not await is_being_removed(client, Cluster(), DAEMONSET)
    assert "pods stay captured" in caplog.text


async def test_garbage_about_the_daemonset_and_an_api_that_is_away_remove_nothing() -> None:
    api = ApiServer()
    async with with_rights(api, AGENT, {"metadata": 3}) as (client, _):
        assert not await is_being_removed(client, Cluster(), DAEMONSET)
    async with ApiClient(ApiAccess("http://127.0.0.1:1", None, None)) as nobody:
        assert not await is_being_removed(nobody, Cluster(), DAEMONSET)
    assert issubclass(ApiRefusal, ClusterError)
