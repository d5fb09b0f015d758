"""Which pods are in the mesh, as whom, and why not; an address means the pod that has it now."""

from ipaddress import ip_address
from typing import Any

import pytest

from interceptor.cluster.cluster import Cluster, Kind
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.membership import Membership, Standing, Why, membership
from interceptor.cluster.workloads import workload_of, workloads_by_uid
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from tests.cluster.api_objects import MESH, changed, cluster_of, namespace, pod, removed

DOMAIN = TrustDomain("cluster.local")
ADDRESS = ip_address("10.0.0.1")


def decided(labels: dict[str, str] | None, /, **changes: Any) -> Membership:
    """The decision about a pod in a namespace with these labels, None for a namespace that is not known."""
    spaces = [] if labels is None else [namespace("shop", labels=labels)]
    name, addresses = changes.pop("name", "web"), changes.pop("addresses", ["10.0.0.1"])
    cluster = cluster_of(namespaces=spaces, pods=[pod(f"shop/{name}", *addresses, **changes)])
    found = cluster.pods.get(ObjectKey("shop", name))
    assert found is not None
    return membership(cluster, found, DOMAIN)


def test_pod_of_a_labelled_namespace_is_enrolled_as_its_service_account() -> None:
    found = decided(MESH, account="front")
    assert (found.standing, found.why) == (Standing.ENROLLED, Why.LABELLED)
    assert found.identity == SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/front")
    assert found.is_possible


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({"istio.io/dataplane-mode": "ambient"}, Why.LABELLED),
        ({"istio.io/dataplane-mode": "none"}, Why.NAMESPACE_NOT_LABELLED),
        ({}, Why.NAMESPACE_NOT_LABELLED),
        ({"interceptor.io/mesh": "none"}, Why.NAMESPACE_NOT_LABELLED),
        # Our own label decides when it is there: a cluster may have Istio's mesh too.
        ({"interceptor.io/mesh": "none", "istio.io/dataplane-mode": "ambient"}, Why.NAMESPACE_NOT_LABELLED),
        ({"interceptor.io/mesh": "enabled", "istio.io/dataplane-mode": "none"}, Why.LABELLED),
        ({"interceptor.io/mesh": "Enabled"}, Why.LABEL_NOT_UNDERSTOOD),
        (None, Why.NAMESPACE_UNKNOWN),
    ],
)
def test_label_of_the_namespace_decides(labels: dict[str, str] | None, why: Why) -> None:
    assert decided(labels).why is why


@pytest.mark.parametrize(
    ("changes", "standing", "why"),
    [
        ({"labels": {"interceptor.io/mesh": "none"}}, Standing.OUTSIDE, Why.POD_EXCEPTED),
        ({"labels": {"istio.io/dataplane-mode": "none"}}, Standing.OUTSIDE, Why.POD_EXCEPTED),
        ({"labels": {"interceptor.io/mesh": "off"}}, Standing.ENROLLED, Why.LABELLED),
        ({"host_network": True}, Standing.OUTSIDE, Why.HOST_NETWORK),
        ({"phase": "Succeeded"}, Standing.OUTSIDE, Why.FINISHED),
        ({"phase": "Failed"}, Standing.OUTSIDE, Why.FINISHED),
        ({"phase": "Pending"}, Standing.ENROLLED, Why.LABELLED),
        ({"account": None}, Standing.OUTSIDE, Why.NO_IDENTITY),
        ({"account": "Not Valid"}, Standing.WAITING, Why.NAME_UNSUPPORTED),
        ({"name": "a.b"}, Standing.ENROLLED, Why.LABELLED),
        ({"name": "a" * 120}, Standing.ENROLLED, Why.LABELLED),
        ({"account": "a.b"}, Standing.ENROLLED, Why.LABELLED),
        ({"addresses": []}, Standing.WAITING, Why.NO_ADDRESS),
        ({"node": None}, Standing.WAITING, Why.NO_ADDRESS),
        ({"deleting": True}, Standing.DRAINING, Why.ASKED_TO_END),
    ],
)
def test_pod_of_a_labelled_namespace_may_be_an_exception(
    changes: dict[str, Any], standing: Standing, why: Why
) -> None:
    found = decided(MESH, **changes)
    assert (found.standing, found.why) == (standing, why)
    assert found.is_possible == (standing is not Standing.OUTSIDE)
    assert found.is_free == (not found.is_possible and why not in (Why.FINISHED, Why.HOST_NETWORK))


def test_every_reason_is_explained_in_one_sentence() -> None:
    assert all(why.explanation and "\n" not in why.explanation for why in Why)


def test_label_that_is_removed_or_added_changes_the_standing_of_running_pods() -> None:
    web = pod("shop/web", "10.0.0.1", labels={"app": "web"})
    cluster = cluster_of(namespaces=[namespace("shop")], pods=[web])
    assert workloads_by_uid(cluster, DOMAIN) == {}
    cluster = cluster.apply(changed(Kind.NAMESPACE, namespace("shop", version=101, labels=MESH)))
    found = workloads_by_uid(cluster, DOMAIN)["uid-web"]
    assert (str(found.key), found.addresses, found.node) == ("shop/web", (ADDRESS,), "node-1")
    assert dict(found.labels) == {"app": "web"}
    cluster = cluster.apply(changed(Kind.NAMESPACE, namespace("shop", version=102)))
    assert workloads_by_uid(cluster, DOMAIN) == {}


def _accounts(cluster: Cluster) -> dict[str, str]:
    return {uid: each.service_account for uid, each in workloads_by_uid(cluster, DOMAIN).items()}


def _account_at(cluster: Cluster) -> str | None:
    there = cluster.pod_at(ADDRESS)
    workload = workload_of(cluster, there, DOMAIN) if there is not None else None
    return workload.service_account if workload is not None and ADDRESS in workload.addresses else None


OLD = pod("shop/old", "10.0.0.1", account="old")
NEW = pod("shop/new", "10.0.0.1", account="new", version=110)


def _shop(*pods: dict[str, Any]) -> Cluster:
    return cluster_of(namespaces=[namespace("shop", labels=MESH)], pods=pods)


def test_address_that_two_pods_claim_belongs_to_nobody_until_one_of_them_goes() -> None:
    cluster = _shop(OLD).apply(changed(Kind.POD, NEW))
    assert _account_at(cluster) is None
    assert [each.addresses for each in workloads_by_uid(cluster, DOMAIN).values()] == [(), ()]
    cluster = cluster.apply(
        removed(Kind.POD, {**OLD, "metadata": {**OLD["metadata"], "resourceVersion": "111"}})
    )
    assert _account_at(cluster) == "new"
    assert _accounts(cluster) == {"uid-new": "new"}


@pytest.mark.parametrize("ended", [{"deleting": True}, {"phase": "Succeeded"}])
def test_address_of_a_pod_that_ends_is_the_next_ones_at_once(ended: dict[str, Any]) -> None:
    ending = pod("shop/old", "10.0.0.1", account="old", version=105, **ended)
    cluster = _shop(OLD).apply(changed(Kind.POD, ending)).apply(changed(Kind.POD, NEW))
    assert _account_at(cluster) == "new"


def test_address_of_a_pod_that_is_being_deleted_is_still_its_own() -> None:
    assert _account_at(_shop(pod("shop/old", "10.0.0.1", account="old", deleting=True))) == "old"


def test_pod_that_takes_over_name_and_address_of_another_has_its_own_identity() -> None:
    """As a stateful set's pod does, here with another service account; also when the removal is heard too late."""
    again = pod("shop/old", "10.0.0.1", uid="uid-second", account="second", version=120)
    removal = removed(Kind.POD, {**OLD, "metadata": {**OLD["metadata"], "resourceVersion": "119"}})
    cluster = _shop(OLD).apply(changed(Kind.POD, again)).apply(removal)
    assert _accounts(cluster) == {"uid-second": "second"}
    assert _account_at(cluster) == "second"


def test_node_address_means_none_of_the_pods_that_use_it() -> None:
    cluster = _shop(pod("shop/agent", "10.0.0.1", host_network=True))
    assert cluster.pod_at(ADDRESS) is None
    assert cluster.pod_at(ip_address("::ffff:10.0.0.9")) is None
