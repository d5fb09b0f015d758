"""How pods stand, told where people look: conditions and Events in the API, `status --node`, readiness; and what is told
when the API, or a pod, is not as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from interceptor.cluster.cluster import Kind
from tests.cluster import api_objects
from tests.harness.cluster import Cluster, cluster_of
from tests.harness.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(120)]
ENROLLED = "interceptor.io/Enrolled"


@pytest.fixture(scope="module")
def cluster(_swept: None) -> Iterator[Cluster]:
    with cluster_of(1) as cluster:
        cluster.api.namespace("shop")
        yield cluster


def condition(cluster: Cluster, path: str) -> dict[str, Any] | None:
    """What the API has of how a pod stands."""
    return cluster.api.do(lambda api: api.written.condition(Kind.POD, path, ENROLLED))


def wait_told(cluster: Cluster, path: str, status: str, reason: str) -> dict[str, Any]:
    def is_told() -> bool:
        found = condition(cluster, path)
        return found is not None and (found["status"], found["reason"]) == (status, reason)

    try:
        wait_until(is_told, f"{path} is told as {reason}", 20)
    except TimeoutError as error:
        (node,) = cluster.nodes
        raise AssertionError(
            f"{error}: {condition(cluster, path)} {node.pods()}\n{node.log()[-3000:]}"
        ) from None
    found = condition(cluster, path)
    assert found is not None
    return found


def events(cluster: Cluster, name: str) -> list[tuple[str, str]]:
    return cluster.api.do(
        lambda api: [(each["type"], each["reason"]) for each in api.written.events_of(name)]
    )


def test_pod_that_is_enrolled_is_told_so_once(cluster: Cluster) -> None:
    (node,) = cluster.nodes
    pod = cluster.run_pod(node, "shop/web", account="web")
    told = wait_told(cluster, "shop/web", "True", "Enrolled")
    assert told["message"] == "in the mesh as spiffe://cluster.local/ns/shop/sa/web"
    wait_until(lambda: events(cluster, "web") == [("Normal", "Enrolled")], "its Event is there")
    pod.close()
    cluster.api.delete(Kind.POD, "shop/web")


def test_pods_that_are_not_in_the_mesh_are_told_why(cluster: Cluster) -> None:
    (node,) = cluster.nodes
    cluster.api.put(Kind.POD, api_objects.pod("shop/host", node.address, node=node.name, host_network=True))
    cluster.api.put(Kind.POD, api_objects.pod("shop/fresh", node=node.name))
    wait_told(cluster, "shop/host", "False", "HostNetwork")
    wait_told(cluster, "shop/fresh", "False", "NoAddress")
