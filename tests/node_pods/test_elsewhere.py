"""The registry knows the pods of other nodes by name and address, where the mesh is, and ours never twice."""

from ipaddress import ip_address, ip_network

from interceptor.cluster.cluster import Kind
from interceptor.enrolment.registry import Registry
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.node_pods.elsewhere import Elsewhere, pods_outside_cidrs
from interceptor.workload import Workload, WorkloadKey
from tests.cluster.api_objects import MESH, changed, cluster_of, namespace, pod, removed, service

DOMAIN = TrustDomain("cluster.local")
CIDRS = (ip_network("10.0.0.0/16"), ip_network("fd00::/64"))
FAR = pod("shop/far", "10.0.1.1", "192.0.2.1", account="far", node="node-2", labels={"app": "far"})
PODS = (
    FAR,
    pod("shop/near", "10.0.0.1", node="node-1"),
    pod("plain/other", "10.0.1.2", node="node-2"),
    pod("shop/abroad", "192.0.2.2", node="node-2"),
)
CLUSTER = cluster_of(namespaces=(namespace("shop", labels=MESH), namespace("plain")), pods=PODS)


def elsewhere(cluster: object = CLUSTER) -> Elsewhere:
    return Elsewhere(cluster, "node-1", DOMAIN, CIDRS)  # type: ignore[arg-type]


def test_pod_of_another_node_is_known_by_name_and_address_inside_the_mesh() -> None:
    registry = Registry.empty().with_others(elsewhere())
    far = registry.by_address(ip_address("10.0.1.1"))
    assert far is not None
    assert (str(far.identity), far.node, dict(far.labels)) == (
        "spiffe://cluster.local/ns/shop/sa/far",
        "node-2",
        {"app": "far"},
    )
    assert far.addresses == (ip_address("10.0.1.1"),)
    assert registry.get(WorkloadKey("shop", "far")) == far
    assert registry.workloads == (far,)
    assert registry.is_remote(ip_address("10.0.1.1"))
    assert list(elsewhere().holdings()) == []


def test_nobody_else_is_known() -> None:
    registry = Registry.empty().with_others(elsewhere())
    for address in ("10.0.0.1", "10.0.1.2", "192.0.2.1", "192.0.2.2", "10.0.9.9"):
        assert registry.by_address(ip_address(address)) is None
    for name in ("near", "abroad", "nobody"):
        assert registry.get(WorkloadKey("shop", name)) is None


def test_address_given_to_another_account_means_the_new_one_at_once() -> None:
    cluster = CLUSTER.apply(removed(Kind.POD, versioned(FAR, 200)))
    thief = pod("shop/thief", "10.0.1.1", version=201, account="thief", node="node-2")
    found = elsewhere(cluster.apply(changed(Kind.POD, thief))).by_address(ip_address("10.0.1.1"))
    assert found is not None
    assert found.service_account == "thief"


def test_pods_with_addresses_outside_of_the_mesh_are_named() -> None:
    line = pods_outside_cidrs(CLUSTER, DOMAIN, CIDRS)
    assert line is not None
    assert "shop/abroad (192.0.2.2), shop/far (192.0.2.1)" in line
    many = [pod(f"shop/p-{number}", f"192.0.2.{number}") for number in range(1, 9)]
    crowd = cluster_of(namespaces=(namespace("shop", labels=MESH),), pods=many)
    assert "shop/p-5 (192.0.2.5) and 3 more:" in (pods_outside_cidrs(crowd, DOMAIN, CIDRS) or "")
    assert pods_outside_cidrs(CLUSTER, DOMAIN, (*CIDRS, ip_network("192.0.2.0/24"))) is None


def versioned(value: dict[str, object], version: int) -> dict[str, object]:
    metadata = value["metadata"]
    assert isinstance(metadata, dict)
    return {**value, "metadata": {**metadata, "resourceVersion": str(version)}}


def newcomer(
    identity: str, address: str, *others: dict[str, object], node: str = "node-2"
) -> Workload | None:
    """Who may have sent from an address, when the API shows a pod shop/fresh without any."""
    fresh = pod("shop/fresh", account="fresh", node=node)
    namespaces = (namespace("shop", labels=MESH), namespace("plain"))
    cluster = cluster_of(
        namespaces=namespaces, pods=(FAR, fresh, *others), services=(service("shop/web", "10.0.9.80"),)
    )
    registry = Registry.empty().with_others(elsewhere(cluster))
    return registry.source(ip_address(address), SpiffeId.parse(identity))


FRESH = "spiffe://cluster.local/ns/shop/sa/fresh"


def test_identity_of_a_pod_without_an_address_may_have_one_that_is_nobodys() -> None:
    found = newcomer(FRESH, "10.0.9.9")
    assert found is not None
    assert (str(found.key), str(found.identity), found.addresses) == (
        "shop/fresh",
        FRESH,
        (ip_address("10.0.9.9"),),
    )


def test_identity_of_a_pod_without_an_address_has_none_that_is_anothers() -> None:
    far = newcomer(FRESH, "10.0.1.1")
    assert far is not None
    assert far.service_account == "far"
    assert newcomer(FRESH, "10.0.9.80") is None
    assert newcomer(FRESH, "192.0.2.77") is None
    assert newcomer(FRESH, "10.0.9.9", pod("plain/owner", "10.0.9.9", node="node-3")) is None


def test_identity_without_a_pod_that_begins_elsewhere_has_no_unknown_address() -> None:
    assert newcomer("spiffe://cluster.local/ns/shop/sa/far", "10.0.9.9") is None
    assert newcomer("spiffe://other.example/ns/shop/sa/fresh", "10.0.9.9") is None
    assert newcomer(FRESH, "10.0.9.9", node="node-1") is None
    assert (
        newcomer("spiffe://cluster.local/ns/plain/sa/new", "10.0.9.9", pod("plain/new", account="new"))
        is None
    )
