"""Addresses of services beyond the mesh's ranges are captured one by one, if the service may be the mesh's."""

from ipaddress import ip_network

import pytest

from interceptor.node_pods import service_addresses
from interceptor.node_pods.service_addresses import service_networks
from tests.cluster.api_objects import MESH, cluster_of, namespace, service

MESH_CIDRS = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
CLUSTER = cluster_of(
    namespaces=[namespace("shop", labels=MESH), namespace("plain")],
    services=[
        service("shop/web", "10.96.0.1", "fd00::1", externalIPs=["203.0.113.1", "2001:db8::1"]),
        service("shop/inside", "10.96.0.2"),
        service("shop/twin", "172.20.0.1", externalIPs=["203.0.113.1"]),
        service("plain/web", "172.20.0.2", externalIPs=["203.0.113.2"]),
        service("young/web", "172.20.0.3"),
    ],
)


def test_addresses_beyond_the_ranges_are_captured_unless_the_service_is_certainly_outside() -> None:
    found, problem = service_networks(CLUSTER, MESH_CIDRS)
    addresses = ("203.0.113.1", "2001:db8::1", "172.20.0.1", "172.20.0.3")
    assert found == {ip_network(address) for address in addresses}
    assert problem is None


def test_too_many_addresses_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_addresses, "MAX_ADDRESSES", 2)
    found, problem = service_networks(CLUSTER, MESH_CIDRS)
    assert found == {ip_network("172.20.0.1"), ip_network("172.20.0.3")}
    assert problem is not None
    assert (
        "4 addresses of services lie outside of mesh.cidrs, connections to 203.0.113.1 and above" in problem
    )
