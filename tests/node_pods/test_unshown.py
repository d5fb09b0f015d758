"""A pod that runs before the API shows its address has the one in its namespace, if that can be nobody else's."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest

from interceptor.cluster.membership import Standing
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.node_pods.pods import NodePod, pods_of_node
from interceptor.node_pods.steps import Enrol, Held, Withdraw, steps
from interceptor.node_pods.unshown import with_found_addresses
from tests.cluster.api_objects import MESH, Json, cluster_of, namespace, pod, service

DOMAIN = TrustDomain("cluster.local")
CIDRS = (ip_network("10.0.0.0/16"), ip_network("fd00::/64"))
NAMESPACES = (namespace("shop", labels=MESH), namespace("plain"))
FRESH = pod("shop/fresh", account="fresh", labels={"app": "fresh"})


def found_in(only: Json, addresses: Sequence[str], *others: Json, services: Sequence[Json] = ()) -> NodePod:
    """The pod, when its namespace has these addresses."""
    cluster = cluster_of(namespaces=NAMESPACES, pods=(only, *others), services=services)
    uid = only["metadata"]["uid"]
    pods = pods_of_node(cluster, "node-1", DOMAIN)
    return with_found_addresses(pods, {uid: tuple(map(ip_address, addresses))}, cluster, CIDRS)[uid]


def test_pod_without_an_address_in_the_api_is_enrolled_with_the_first_of_each_family_that_it_has() -> None:
    found = found_in(FRESH, ["fe80::1", "10.0.0.5", "10.0.0.6", "fd00::5", "fd00::6"])
    (step,) = steps({found.uid: found}, (), claimed=frozenset())
    assert isinstance(step, Enrol)
    assert step.workload.addresses == (ip_address("10.0.0.5"), ip_address("fd00::5"))
    assert (str(step.workload.identity), step.workload.node) == (
        "spiffe://cluster.local/ns/shop/sa/fresh",
        "node-1",
    )
    assert dict(step.workload.labels) == {"app": "fresh"}
    assert found.standing is Standing.WAITING


@pytest.mark.parametrize(
    ("addresses", "others", "services"),
    [
        ([], (), ()),
        (["fe80::1"], (), ()),
        (["192.0.2.1"], (), ()),  # no address of the mesh
        (["10.0.0.5", "2001:db8::1"], (), ()),
        (["10.0.0.5"], (pod("plain/owner", "10.0.0.5", node="node-2"),), ()),
        (["10.0.0.5"], (pod("shop/old", "10.0.0.5", deleting=True),), ()),
        (["10.0.0.5"], (), (service("shop/web", "10.0.0.5"),)),
    ],
)
def test_pod_whose_found_address_may_be_somebody_elses_goes_on_waiting(
    addresses: list[str], others: tuple[Json, ...], services: tuple[Json, ...]
) -> None:
    assert found_in(FRESH, addresses, *others, services=services).workload is None


@pytest.mark.parametrize(
    "other",
    [
        pod("plain/fresh", account="fresh"),
        pod("shop/fresh", account="fresh", deleting=True),
        pod("shop/fresh", account="fresh", host_network=True),
        pod("shop/fresh", account="fresh", phase="Succeeded"),
        pod("shop/fresh", account=None),
    ],
)
def test_pod_that_shall_not_be_in_the_mesh_gets_no_found_address(other: Json) -> None:
    assert found_in(other, ["10.0.0.5"]).workload is None


def test_pod_whose_address_the_api_shows_keeps_that_one() -> None:
    shown = found_in(pod("shop/fresh", "10.0.0.7", account="fresh"), ["10.0.0.5"])
    assert shown.workload is not None
    assert shown.workload.addresses == (ip_address("10.0.0.7"),)


def held_with(address: str) -> Held:
    found = found_in(FRESH, [address])
    assert found.workload is not None
    return Held(found.uid, found.workload)


def test_found_address_that_the_api_shows_in_the_end_changes_nothing() -> None:
    shown = pod("shop/fresh", "10.0.0.5", account="fresh", labels={"app": "fresh"})
    pods = pods_of_node(cluster_of(namespaces=NAMESPACES, pods=(shown,)), "node-1", DOMAIN)
    assert steps(pods, [held_with("10.0.0.5")], claimed=frozenset()) == []


def test_found_address_that_is_another_pods_by_the_api_is_given_up_at_once() -> None:
    owner = pod("shop/owner", "10.0.0.5", account="owner")
    pods = pods_of_node(cluster_of(namespaces=NAMESPACES, pods=(FRESH, owner)), "node-1", DOMAIN)
    out, into = steps(pods, [held_with("10.0.0.5")], claimed=frozenset({ip_address("10.0.0.5")}))
    assert isinstance(out, Withdraw)
    assert isinstance(into, Enrol)
    assert (out.uid, out.may_drain, out.why) == (
        "uid-fresh",
        False,
        "another pod has its address 10.0.0.5, by the API",
    )
    assert into.uid == "uid-owner"
