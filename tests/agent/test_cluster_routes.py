"""Who is certainly nobody of the mesh: whom a cluster's API shows, and whatever is not in the mesh's ranges."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from interceptor.agent.cluster_routes import ClusterRoutes
from interceptor.cluster.cluster import Cluster
from interceptor.config import parse_config
from interceptor.proxy.route import Way
from interceptor.workload import Endpoint
from tests.cluster.api_objects import MESH, cluster_of, namespace, pod

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.kubernetes.cluster_watch import ClusterWatch

CLIENT = ip_address("10.0.0.9")


@pytest.fixture
def routes(tmp_path: Path) -> ClusterRoutes:
    text = (
        "mesh: {cidrs: [10.0.0.0/8, 'fd00::/8']}\n"
        "bridge: {ipv4: 10.215.0.1/24, ipv6: 'fd15:8::1/64'}\n"
        f"paths: {{state: {tmp_path}}}\n"
    )
    config = parse_config(text, "config.yaml", node="node-1")
    cluster = cluster_of(
        namespaces=[namespace("shop", labels=MESH)],
        pods=[pod("shop/web-1", "10.0.0.1"), pod("shop/far-1", "192.0.2.7")],
    )
    watch: Any = SimpleNamespace(cluster=cluster)
    given: ClusterWatch = watch
    return ClusterRoutes(config, given)


@pytest.mark.parametrize(
    ("destination", "way"),
    [
        ("10.0.0.1:80", Way.MESH),
        ("10.0.0.2:80", Way.MESH),  # it may be a pod that we have not heard of yet
        ("192.0.2.7:80", Way.MESH),  # a pod of the mesh, whatever address it has
        ("192.0.2.1:80", Way.OUTSIDE),
        ("[2001:db8::1]:80", Way.OUTSIDE),
    ],
)
def test_way_of_an_address_is_as_the_cluster_and_the_ranges_say(
    routes: ClusterRoutes, destination: str, way: Way
) -> None:
    endpoint = Endpoint.parse(destination)
    found = routes(endpoint, CLIENT)
    assert (found.way, found.endpoint) == (way, endpoint)


def test_nobody_is_outside_for_certain_before_the_pods_were_listed(routes: ClusterRoutes) -> None:
    unlisted = Cluster()
    routes._watch = SimpleNamespace(cluster=unlisted)  # type: ignore[assignment]
    assert routes(Endpoint.parse("192.0.2.1:80"), CLIENT).way is Way.MESH
