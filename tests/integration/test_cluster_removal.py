"""A node whose agent is stopped: it is left as it was found when the mesh is taken out of the cluster, and only then."""

from __future__ import annotations

import signal
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor.cluster.cluster import Kind
from interceptor.manifests.everything import everything, json_list
from interceptor.manifests.names import AGENT, AUTHORITY
from interceptor.manifests.values import Values
from tests.cluster import api_objects
from tests.harness.cluster import cluster_of
from tests.harness.process import wait_until
from tests.kubernetes.rbac import Rights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.cluster import Cluster, ClusterNode
    from tests.kubernetes.api_server import ApiServer

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(120)]
NAMESPACE = "interceptor"


@pytest.fixture(scope="module")
def rights() -> Rights:
    """What the printed roles give to an agent."""
    objects = json_list(everything(Values((ip_network("10.0.0.0/8"),))))["items"]
    assert isinstance(objects, list)
    return Rights(objects, AGENT)


@pytest.fixture(scope="module")
def cluster(_swept: None, rights: Rights) -> Iterator[Cluster]:
    """One node, whose agent has exactly these rights, and knows whose pod it is."""
    with pytest.MonkeyPatch.context() as environment, cluster_of(1) as cluster:
        environment.setenv("POD_NAMESPACE", NAMESPACE)
        environment.setenv("DAEMONSET", AGENT)
        cluster.nodes[0].down().check()
        reviews = Rights(json_list(everything(Values((ip_network("10.0.0.0/8"),))))["items"], AUTHORITY)

        def forbids(method: str, path: str, query: str) -> str | None:
            # The authority asks the same server: what only it may is told apart by that.
            if path.endswith("/tokenreviews"):
                return reviews.forbids(method, path, query)
            return rights.forbids(method, path, query)

        cluster.api.do(lambda api: setattr(api, "forbids", forbids))
        cluster.api.namespace(NAMESPACE, {})
        yield cluster


@pytest.fixture
def node(cluster: Cluster) -> ClusterNode:
    """The node, with a pod enrolled by an agent that runs."""
    node = cluster.nodes[0]
    has_daemonset(cluster)
    cluster.api.namespace("shop")
    node.up().check()
    if "shop/web" not in node.pods():
        pod = node.start_pod("shop/web")
        cluster.api.put(Kind.POD, pod.json())
    wait_until(lambda: is_enrolled(node), "the pod is enrolled", 15)
    return node


def is_enrolled(node: ClusterNode) -> bool:
    return node.enrolled().get("shop/web", {}).get("state") == "ready"


def has_daemonset(cluster: Cluster) -> None:
    head = {"name": AGENT, "namespace": NAMESPACE, "uid": "u", "resourceVersion": "1"}
    cluster.api.do(lambda api: api.daemonsets.update({AGENT: {"metadata": head}}))


def is_clean(node: ClusterNode) -> bool:
    """Nothing of the agent is left: no programs, no run-time files, no state."""
    paths = [Path(node.config["paths"][key]) for key in ("bpf", "run", "state")]  # type: ignore[index]
    return not any(path.exists() and any(path.iterdir()) for path in paths)


def test_agent_that_is_to_come_back_leaves_its_pods_captured(node: ClusterNode) -> None:
    log = node.log
    node.kill(signal.SIGTERM)
    assert "enrolled workloads stay captured" in log()
    assert not is_clean(node)


def test_agent_whose_daemonset_is_gone_leaves_the_node_as_it_was(cluster: Cluster, node: ClusterNode) -> None:
    cluster.api.do(lambda api: api.daemonsets.clear())
    node.kill(signal.SIGTERM)
    wait_until(lambda: is_clean(node), "nothing is left")


def test_agent_whose_namespace_is_deleted_leaves_the_node_as_it_was_without_any_right(
    cluster: Cluster, node: ClusterNode, rights: Rights
) -> None:
    assert rights.refused == []
    # That the same happens again is counted after a minute: that right is used in tests/kubernetes/test_rights.py.
    later = {("*", "events.k8s.io", "events", "*", "patch")}
    told = {("*", "", "pods/status", "*", "patch"), ("*", "events.k8s.io", "events", "*", "create")}
    wait_until(lambda: told <= rights.used, "the pod was told of")
    space = api_objects.namespace(NAMESPACE)
    space["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    cluster.api.put(Kind.NAMESPACE, space)
    cluster.api.namespace("shop", {})  # what is told after it
    wait_until(lambda: not is_enrolled(node), "the agent has heard of both")
    assert rights.unused == later, "a real agent needs each right that it is given"

    def take_the_rights_away(api: ApiServer) -> None:
        api.forbids = lambda *_: "the role is gone"

    cluster.api.do(take_the_rights_away)
    node.kill(signal.SIGTERM)
    wait_until(lambda: is_clean(node), "nothing is left")
