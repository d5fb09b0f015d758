"""What the informers know is what the API has, whatever happens on the way."""

from __future__ import annotations

from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.cluster.cluster import Cluster, Kind
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.resolution import Client, Outcome, resolve
from interceptor.cluster.workloads import workloads_by_uid
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.kubernetes import client as client_module
from interceptor.kubernetes import listing
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient
from interceptor.kubernetes.cluster_watch import ClusterWatch
from interceptor.kubernetes.resource import EVERYTHING, NAMESPACES, pods_of_node
from interceptor.workload import Endpoint
from tests.cluster.api_objects import MESH, namespace, pod

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.kubernetes.api_server import ApiServer

DOMAIN = TrustDomain("cluster.local")
DEADLINE_SECONDS = 10.0


@asynccontextmanager
async def watching(api: ApiServer, resources: tuple[object, ...] = EVERYTHING) -> AsyncIterator[ClusterWatch]:
    async with ApiClient(ApiAccess(api.url, None, None)) as client, trio.open_nursery() as nursery:
        watch = ClusterWatch(client, resources)  # type: ignore[arg-type]
        nursery.start_soon(watch.run)
        yield watch
        nursery.cancel_scope.cancel()


async def until(watch: ClusterWatch, is_so: Callable[[], object]) -> None:
    """Wait until it is so, or fail."""
    with trio.fail_after(DEADLINE_SECONDS):
        while not is_so():
            await watch.wait_changed()


async def eventually(is_so: Callable[[], object]) -> None:
    """The same for what nobody tells."""
    with trio.fail_after(DEADLINE_SECONDS):
        while not is_so():  # noqa: ASYNC110 -- the server of the test tells nobody
            await trio.sleep(0.01)


def pod_names(cluster: Cluster) -> set[str]:
    return {str(key) for key in cluster.pods.objects}


async def synced(watch: ClusterWatch) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        await watch.wait_synced()


def is_current(watch: ClusterWatch, api: ApiServer) -> bool:
    """Whether the snapshot has exactly the pods and namespaces of the API, each in its newest version."""
    for kind, table in ((Kind.POD, watch.cluster.pods), (Kind.NAMESPACE, watch.cluster.namespaces)):
        expected = {key: int(each["metadata"]["resourceVersion"]) for key, each in api.objects[kind].items()}
        if {str(each.head.key): each.head.version for each in table.objects.values()} != expected:
            return False
    return True


async def test_watch_lists_everything_and_follows_each_change(api: ApiServer) -> None:
    async with watching(api) as watch:
        assert watch.waiting_for == ["namespaces", "pods", "services", "endpoint slices"]
        await synced(watch)
        assert (watch.waiting_for, watch.problems) == ([], [])
        assert {each.name for each in workloads_by_uid(watch.cluster, DOMAIN).values()} == {"web-1", "web-2"}
        found = resolve(watch.cluster, Endpoint.parse("10.96.0.1:80"), Client("node-1", None), DOMAIN)
        assert (found.outcome, len(found.candidates)) == (Outcome.SERVICE, 2)
        api.put(Kind.POD, pod("shop/web-3", "10.0.0.4"))
        api.delete(Kind.POD, "shop/web-1")
        api.put(Kind.NAMESPACE, namespace("bank", labels=MESH))
        await until(watch, lambda: is_current(watch, api))
        names = {each.name for each in workloads_by_uid(watch.cluster, DOMAIN).values()}
        assert names == {"web-2", "web-3", "ledger"}


async def test_pod_that_ended_is_as_if_it_were_deleted(api: ApiServer) -> None:
    async with watching(api) as watch:
        await synced(watch)
        api.put(Kind.POD, pod("shop/web-1", "10.0.0.1", phase="Succeeded"))
        await until(watch, lambda: pod_names(watch.cluster) == {"shop/web-2", "bank/ledger"})


async def test_pods_of_one_node_are_all_that_is_asked_for(api: ApiServer) -> None:
    async with watching(api, (NAMESPACES, pods_of_node("node-2"))) as watch:
        await synced(watch)
        assert pod_names(watch.cluster) == {"shop/web-2"}
        api.put(Kind.POD, pod("shop/web-9", "10.0.0.9"))
        api.put(Kind.POD, pod("shop/web-8", "10.0.0.8", node="node-2"))
        await until(watch, lambda: pod_names(watch.cluster) == {"shop/web-2", "shop/web-8"})


async def test_address_reused_by_a_pod_of_another_account_has_the_new_identity(api: ApiServer) -> None:
    async with watching(api) as watch:
        await synced(watch)
        api.delete(Kind.POD, "shop/web-1")
        api.put(Kind.POD, pod("shop/thief", "10.0.0.1", account="thief"))
        await until(watch, lambda: is_current(watch, api))
        there = watch.cluster.pod_at(ip_address("10.0.0.1"))
        assert there is not None
        assert (there.head.uid, there.service_account) == ("uid-thief", "thief")
        found = resolve(watch.cluster, Endpoint.parse("10.96.0.1:80"), Client("node-1", None), DOMAIN)
        assert [str(each.endpoint) for each in found.candidates] == ["10.0.0.2:8080"]


async def test_list_of_many_pages_is_whole(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 7)
    for number in range(40):
        api.put(Kind.POD, pod(f"shop/many-{number}", f"10.0.1.{number}"))
    async with watching(api) as watch:
        await synced(watch)
        assert is_current(watch, api)
        assert len([each for each in api.requests if "continue=" in each]) == 6


async def test_namespaces_are_asked_for_without_their_content(api: ApiServer) -> None:
    value = namespace("shop", labels=MESH)
    value["spec"] = "what nobody could read"
    api.put(Kind.NAMESPACE, value)
    async with watching(api) as watch:
        await synced(watch)
        assert is_current(watch, api)


async def test_watch_that_breaks_off_in_the_middle_of_an_event_is_resumed_where_it_was(
    api: ApiServer,
) -> None:
    async with watching(api) as watch:
        await synced(watch)
        await eventually(lambda: api.watches(Kind.POD))
        api.faults.cut_after = 1
        for number in range(4):
            api.put(Kind.POD, pod(f"shop/new-{number}", f"10.0.2.{number}"))
        await until(watch, lambda: watch.problems)
        assert "the API server at" in watch.problems[0]
        api.faults.cut_after = None
        await until(watch, lambda: is_current(watch, api))
        assert len(api.lists(Kind.POD)) == 1
        await until(watch, lambda: not watch.problems)


async def test_watch_resumes_after_the_version_of_a_bookmark(api: ApiServer) -> None:
    async with watching(api) as watch:
        await synced(watch)
        await eventually(lambda: api.watches(Kind.POD))
        for _ in range(5):
            version = api.put(Kind.SERVICE, api.objects[Kind.SERVICE]["shop/web"])
        await trio.sleep(0.3)  # three bookmarks tell how far the other kinds are
        api.forget_changes()
        api.cut_watches()
        await eventually(lambda: len(api.watches(Kind.POD)) == 2)
        assert f"resourceVersion={version}" in api.watches(Kind.POD)[1]
        api.put(Kind.POD, pod("shop/late", "10.0.3.1"))
        await until(watch, lambda: is_current(watch, api))
        assert len(api.lists(Kind.POD)) == 1


async def test_version_that_is_gone_leads_to_a_new_list(api: ApiServer) -> None:
    async with watching(api) as watch:
        await synced(watch)
        await eventually(lambda: len(api.watches(Kind.POD)) == 1)
        api.faults.refuse = dict.fromkeys(Kind, 503)
        api.cut_watches()
        await eventually(lambda: len(api.watches(Kind.POD)) == 2)
        api.delete(Kind.POD, "shop/web-1")
        api.put(Kind.POD, pod("shop/while-away", "10.0.3.2"))
        api.forget_changes()
        assert "shop/web-1" in pod_names(watch.cluster)  # what is known stays in force
        api.faults.refuse = {}
        await until(watch, lambda: is_current(watch, api))
        assert len(api.lists(Kind.POD)) >= 2


async def test_list_whose_pages_are_gone_is_begun_again(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 1)
    original = api._list

    def forgetful(request, kind):  # type: ignore[no-untyped-def]
        answer = original(request, kind)
        if len(api.lists(Kind.POD)) == 1:
            api.forget_pages()
        return answer

    monkeypatch.setattr(api, "_list", forgetful)
    async with watching(api) as watch:
        await synced(watch)
        assert is_current(watch, api)
        assert len(api.lists(Kind.POD)) >= 2


@pytest.mark.parametrize("fault", ["repeated", "reversed"])
async def test_events_repeated_or_in_the_wrong_order_end_at_the_state_of_the_api(
    api: ApiServer, fault: str
) -> None:
    if fault == "repeated":
        api.faults.repeated = 3
    else:
        api.faults.reversed_events = True
    async with watching(api) as watch:
        await synced(watch)
        await eventually(lambda: api.watches(Kind.POD))
        for number in range(30):
            api.put(Kind.POD, pod(f"shop/n-{number % 5}", f"10.0.4.{number}", uid=f"uid-{number}"))
            if number % 7 == 6:
                api.delete(Kind.POD, f"shop/n-{number % 5}")
        await until(watch, lambda: is_current(watch, api))


GARBAGE = {
    "no_json": b"<html>",
    "no_event": b'{"kind": "Status"}',
    "unknown_type": b'{"type": "EXPLODED", "object": {}}',
    "no_head": b'{"type": "ADDED", "object": {"metadata": {"name": "x"}}}',
    "too_long": b'{"type": "ADDED", "object": "' + b"x" * (4 * 1024 * 1024) + b'"}',
    "ended_by_server": b'{"type": "ERROR", "object": {"code": 500, "message": "etcd is away"}}',
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_in_a_watch_is_told_and_nothing_is_lost(api: ApiServer, name: str) -> None:
    async with watching(api) as watch:
        await synced(watch)
        await eventually(lambda: api.watches(Kind.POD))
        api.send_raw(Kind.POD, GARBAGE[name])
        await until(watch, lambda: watch.problems)
        assert watch.problems[0].startswith("pods: ")
        assert len(watch.problems[0]) < 400
        assert pod_names(watch.cluster) == {"shop/web-1", "shop/web-2", "bank/ledger"}
        api.put(Kind.POD, pod("shop/after", "10.0.3.3"))
        await until(watch, lambda: is_current(watch, api) and not watch.problems)
        # After garbage nothing that was sent can be relied on; a server that says no may be taken at its word.
        assert len(api.lists(Kind.POD)) == (1 if name == "ended_by_server" else 2)


async def test_garbage_instead_of_a_list_is_told_and_asked_again(api: ApiServer) -> None:
    api.faults.garbage_lists[Kind.POD] = 2
    async with watching(api) as watch:
        await until(watch, lambda: watch.problems)
        assert watch.problems == [
            "/api/v1/pods: the API's answer cannot be used: the list of pods is not valid JSON"
        ]
        assert "pods" in watch.waiting_for
        await until(watch, lambda: is_current(watch, api) and not watch.problems)


async def test_one_kind_that_is_forbidden_does_not_stop_the_others(api: ApiServer) -> None:
    api.faults.refuse[Kind.SERVICE] = 403
    async with watching(api) as watch:
        await until(watch, lambda: watch.problems and watch.waiting_for == ["services"])
        assert watch.problems == [
            (
                "the API server refused /api/v1/services with status 403, 'services is forbidden: User cannot list': "
                "give the service account the right to get, list and watch it (RBAC)"
            )
        ]
        api.put(Kind.POD, pod("shop/new", "10.0.3.4"))
        await until(watch, lambda: is_current(watch, api))
        api.faults.refuse.clear()
        await synced(watch)
        assert watch.problems == []


async def test_object_with_endless_labels_is_a_problem_of_its_own(api: ApiServer) -> None:
    async with watching(api) as watch:
        await synced(watch)
        api.put(Kind.POD, pod("shop/web-1", "10.0.0.1", account="web", labels={"app": "x" * 10_000}))
        api.put(Kind.POD, pod("shop/new", "10.0.3.5"))
        await until(watch, lambda: "shop/new" in pod_names(watch.cluster))
        assert len(watch.problems) == 1
        assert watch.problems[0].startswith("pod shop/web-1: label 'app' has the value 'xxx")
        assert "shop/web-1" in pod_names(watch.cluster)  # as it was


async def test_watch_that_is_silent_for_too_long_is_begun_anew(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SILENCE_SECONDS", 0.5)
    api.faults.silent = True
    async with watching(api) as watch:
        await synced(watch)
        await eventually(lambda: len(api.watches(Kind.POD)) == 1)
        api.put(Kind.POD, pod("shop/new", "10.0.3.6"))
        api.faults.silent = False
        await until(watch, lambda: is_current(watch, api))
        assert watch.problems == []
        assert len(api.lists(Kind.POD)) == 1


async def test_api_server_that_is_away_is_told_once_and_waited_for(api: ApiServer) -> None:
    async with watching(api) as watch:
        await synced(watch)
        await eventually(lambda: all(api.watches(kind) for kind in Kind))
        api.faults.refuse = dict.fromkeys(Kind, 503)
        api.cut_watches()
        await until(watch, lambda: len(watch.problems) == 4)
        assert watch.cluster.pods.get(ObjectKey("shop", "web-1")) is not None
        assert watch.waiting_for == []
        api.put(Kind.POD, pod("shop/new", "10.0.3.7"))
        api.faults.refuse = {}
        await until(watch, lambda: is_current(watch, api) and not watch.problems)
