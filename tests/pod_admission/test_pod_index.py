"""Which identities a node may have, by its pods."""

from __future__ import annotations

import pytest

from interceptor.authority.refusal import Code, Refused
from interceptor.cluster.cluster import Cluster, Kind
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.pod_admission.pod_index import PodIndex
from tests.cluster.api_objects import MESH, changed, cluster_of, listed, namespace, pod

WEB = SpiffeId(TrustDomain("cluster.local"), "shop", "web")
SHOP, BANK = namespace("shop", labels=MESH), namespace("bank")


def refusal(*pods: dict[str, object], node: str = "node-1", identity: SpiffeId = WEB) -> Refused:
    with pytest.raises(Refused) as caught:
        PodIndex(cluster_of(namespaces=[SHOP, BANK], pods=pods)).require(node, identity)
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize(
    "kept",
    [
        pod("shop/a", "10.0.0.1", account="web"),
        pod("shop/a", "10.0.0.1", account="web", deleting=True),
        pod("shop/a", account="web", phase="Pending"),
    ],
)
def test_pod_on_the_node_that_has_not_ended_may_have_its_identity(kept):
    outside = pod("shop/0", account="web", host_network=True)
    PodIndex(cluster_of(namespaces=[SHOP], pods=[outside, kept])).require("node-1", WEB)


def test_identity_without_a_pod_on_the_node_is_refused():
    elsewhere = pod("shop/a", "10.0.0.1", account="web", node="node-2")
    other = pod("shop/b", "10.0.0.2", account="db")
    nowhere = pod("shop/c", account="web", node=None)
    namesake = pod("bank/d", "10.0.0.4", account="web")
    nobody = pod("shop/e", "10.0.0.5", account=None)
    refused = refusal(elsewhere, other, nowhere, namesake, nobody)
    assert refused.code is Code.POD_NOT_ON_NODE
    assert (
        "node-1 may not have spiffe://cluster.local/ns/shop/sa/web: the API shows no pod of service"
        in str(refused)
    )


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (pod("shop/a", "10.0.0.1", account="web", phase="Succeeded"), "it has ended"),
        (pod("shop/a", "10.0.0.1", account="web", host_network=True), "it uses its node's network"),
        (pod("shop/a", "10.0.0.1", account="web", labels={"interceptor.io/mesh": "none"}), "its own label"),
    ],
)
def test_pod_that_is_not_in_the_mesh_gives_no_identity(kept, why):
    refused = refusal(kept)
    assert refused.code is Code.POD_NOT_ON_NODE
    assert f"pod shop/a there is not in the mesh, {why}" in str(refused)


def test_pod_of_a_namespace_that_is_not_labelled_gives_no_identity():
    identity = SpiffeId(WEB.trust_domain, "bank", "ledger")
    refused = refusal(pod("bank/l", "10.0.0.1", account="ledger"), identity=identity)
    assert "its namespace has not the label" in str(refused)


@pytest.mark.parametrize(
    "cluster",
    [
        Cluster(),
        Cluster().apply(listed(Kind.POD, 1, pod("shop/a", "10.0.0.1", account="web"))),
        Cluster()
        .apply(listed(Kind.NAMESPACE, 1, SHOP))
        .apply(changed(Kind.POD, pod("shop/a", "10.0.0.1", account="web"))),
    ],
)
def test_nothing_is_issued_before_pods_and_namespaces_were_listed(cluster):
    with pytest.raises(Refused) as caught:
        PodIndex(cluster).require("node-1", WEB)
    assert caught.value.code is Code.AUTHORITY_UNAVAILABLE
