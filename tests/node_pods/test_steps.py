"""What is enrolled becomes what the API shows, whatever happened in between."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.cluster.cluster import Cluster, Kind
from interceptor.cluster.membership import Standing, Why
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.labels import Labels
from interceptor.node_pods.pods import NodePod, pods_of_node
from interceptor.node_pods.steps import Enrol, Held, Readdress, Relabel, Step, Withdraw, steps
from interceptor.workload import IPAddress
from tests.cluster.api_objects import MESH, Json, changed, cluster_of, namespace, pod

DOMAIN = TrustDomain("cluster.local")
SHOP = namespace("shop", labels=MESH)
PLAIN = namespace("plain")
WEB = pod("shop/web", "10.0.0.1", account="web", labels={"app": "web"})


def cluster(*pods: Json, namespaces: tuple[Json, ...] = (SHOP, PLAIN)) -> Cluster:
    return cluster_of(namespaces=namespaces, pods=pods)


def here(found: Cluster) -> dict[str, NodePod]:
    return dict(pods_of_node(found, "node-1", DOMAIN))


def held(*pods: Json) -> list[Held]:
    """What is enrolled when these are the pods."""
    return [Held(uid, each.workload) for uid, each in here(cluster(*pods)).items() if each.workload]


def plan(now: Cluster, before: list[Held], *claimed: str) -> list[Step]:
    addresses = frozenset[IPAddress](map(ip_address, claimed))
    return steps(here(now), before, claimed=addresses)


def test_pod_of_the_mesh_is_enrolled_as_its_service_account_with_its_addresses_and_labels() -> None:
    (step,) = plan(cluster(WEB), [])
    assert isinstance(step, Enrol)
    assert (step.uid, str(step.workload.identity)) == ("uid-web", "spiffe://cluster.local/ns/shop/sa/web")
    assert step.workload.addresses == (ip_address("10.0.0.1"),)
    assert (step.workload.node, step.workload.labels) == ("node-1", Labels({"app": "web"}))


def test_pod_that_is_enrolled_as_it_shall_be_needs_nothing() -> None:
    assert plan(cluster(WEB), held(WEB)) == []


@pytest.mark.parametrize(
    ("other", "standing"),
    [
        (pod("plain/web", "10.0.0.1"), Standing.OUTSIDE),
        (pod("shop/web", "10.0.0.1", host_network=True), Standing.OUTSIDE),
        (pod("shop/web", "10.0.0.1", labels={"interceptor.io/mesh": "none"}), Standing.OUTSIDE),
        (pod("shop/web"), Standing.WAITING),
        (pod("elsewhere/web", "10.0.0.1"), Standing.WAITING),
    ],
)
def test_pod_that_shall_not_be_in_the_mesh_is_not_enrolled(other: Json, standing: Standing) -> None:
    found = cluster(other)
    assert plan(found, []) == []
    ((_, shown),) = here(found).items()
    assert (shown.standing, shown.is_meant) == (standing, False)
    assert shown.explanation == shown.membership.why.explanation


def test_pods_of_other_nodes_are_not_ours() -> None:
    assert here(cluster(pod("shop/web", "10.0.0.1", node="node-2"), pod("shop/b", node=None))) == {}


def only_withdrawal(found: list[Step]) -> Withdraw:
    (step,) = found
    assert isinstance(step, Withdraw)
    return step


def test_pod_that_vanished_may_drain() -> None:
    step = only_withdrawal(plan(cluster(), held(WEB)))
    assert (step.uid, step.may_drain, step.why) == ("uid-web", True, "the API shows it no more")


def test_pod_that_finished_may_drain() -> None:
    finished = pod("shop/web", "10.0.0.1", account="web", phase="Succeeded")
    step = only_withdrawal(plan(cluster(finished), held(WEB)))
    assert (step.may_drain, step.why) == (True, Why.FINISHED.explanation)


def test_pod_whose_address_is_claimed_elsewhere_may_not_drain() -> None:
    assert not only_withdrawal(plan(cluster(), held(WEB), "10.0.0.1")).may_drain


def test_pod_whose_label_went_is_withdrawn_at_once() -> None:
    for now in (
        cluster(WEB, namespaces=(namespace("shop"),)),
        cluster(pod("shop/web", "10.0.0.1", account="web", labels={"interceptor.io/mesh": "none"})),
    ):
        assert not only_withdrawal(plan(now, held(WEB))).may_drain


def test_pod_that_is_being_deleted_stays_until_it_is_gone() -> None:
    deleting = pod("shop/web", "10.0.0.1", account="web", labels={"app": "web"}, deleting=True)
    assert plan(cluster(deleting), held(WEB)) == []
    (step,) = plan(cluster(deleting), [])
    assert isinstance(step, Enrol)


def test_pod_of_which_something_is_not_known_any_more_stays() -> None:
    assert plan(cluster(WEB, namespaces=()), held(WEB)) == []
    assert plan(cluster(pod("shop/web", account="web")), held(WEB)) == []


def test_address_reused_by_another_account_leaves_the_old_one_before_the_new_one_comes() -> None:
    thief = pod("shop/thief", "10.0.0.1", account="thief")
    out, into = plan(cluster(thief), held(WEB))
    assert isinstance(out, Withdraw)
    assert isinstance(into, Enrol)
    assert (out.uid, out.may_drain) == ("uid-web", False)
    assert str(into.workload.identity) == "spiffe://cluster.local/ns/shop/sa/thief"


def test_name_reused_by_another_pod_leaves_the_old_one_first() -> None:
    again = pod("shop/web", "10.0.0.9", uid="uid-again", account="web")
    out, into = plan(cluster(again), held(WEB))
    assert isinstance(out, Withdraw)
    assert isinstance(into, Enrol)
    assert (out.uid, out.may_drain, into.uid) == ("uid-web", False, "uid-again")


@pytest.mark.parametrize(
    "now",
    [
        pod("shop/web", "10.0.0.1", account="other"),
        pod("shop/renamed", "10.0.0.1", uid="uid-web", account="web"),
    ],
)
def test_pod_that_is_another_now_is_taken_out_and_in_again(now: Json) -> None:
    out, into = plan(cluster(now), held(WEB))
    assert isinstance(out, Withdraw)
    assert isinstance(into, Enrol)
    assert (out.uid, into.uid, out.may_drain) == ("uid-web", "uid-web", False)
    assert into.workload != out.held.workload
    assert str(into.workload.identity) in out.why


OTHER_ADDRESSES = (
    pod("shop/web", "10.0.0.7", account="web", labels={"app": "web"}),
    pod("shop/web", "10.0.0.1", "fd00::1", account="web", labels={"app": "web"}),
)


@pytest.mark.parametrize("now", OTHER_ADDRESSES)
def test_pod_with_other_addresses_stays_and_is_known_by_them(now: Json) -> None:
    (step,) = plan(cluster(now), held(WEB))
    assert step == Readdress("uid-web", held(now)[0].workload)


@pytest.mark.parametrize("now", OTHER_ADDRESSES)
def test_pod_that_was_cut_off_with_other_addresses_is_taken_out_and_in_again(now: Json) -> None:
    out, into = plan(cluster(now), [replace(each, is_cut_off=True) for each in held(WEB)])
    assert isinstance(out, Withdraw)
    assert isinstance(into, Enrol)
    assert str(into.workload.addresses[-1]) in out.why


def test_pod_with_other_labels_is_relabelled() -> None:
    (step,) = plan(cluster(pod("shop/web", "10.0.0.1", account="web", labels={"app": "b"})), held(WEB))
    assert step == Relabel("uid-web", replace(held(WEB)[0].workload, labels=Labels({"app": "b"})))


def test_address_that_two_pods_claim_is_nobodys() -> None:
    twin = pod("shop/twin", "10.0.0.1", account="twin", node="node-2")
    found = cluster(WEB, twin)
    assert plan(found, []) == []
    assert here(found)["uid-web"].explanation == "another pod has its address 10.0.0.1 too, by the API"
    assert plan(found, held(WEB), "10.0.0.1") == []  # one that has it stays captured


def test_pod_that_ends_gives_its_address_to_who_has_it_now() -> None:
    deleting = pod("shop/web", "10.0.0.1", account="web", deleting=True)
    twin = pod("shop/twin", "10.0.0.1", account="twin", node="node-2")
    step = only_withdrawal(plan(cluster(deleting, twin), held(WEB), "10.0.0.1"))
    assert not step.may_drain


def shop_pod(name: str, address: int, account: str, **options: Any) -> Json:
    return pod(
        f"shop/{name}", f"10.0.0.{address}", uid=f"uid-{name}-{account}-{address}", account=account, **options
    )


PODS = st.builds(
    shop_pod,
    st.sampled_from("abc"),
    st.integers(1, 3),
    st.sampled_from(["one", "two"]),
    deleting=st.booleans(),
    phase=st.sampled_from(["Running", "Succeeded"]),
    labels=st.sampled_from([{}, {"interceptor.io/mesh": "none"}, {"app": "x"}]),
)


@given(st.lists(PODS, max_size=5), st.lists(PODS, max_size=5))
def test_steps_lead_from_any_pods_to_those_that_shall_be(before: list[Json], after: list[Json]) -> None:
    was, now = cluster(), cluster()
    for number, each in enumerate(before):
        was = was.apply(changed(Kind.POD, versioned(each, 1000 + number)))
    for number, each in enumerate(after):
        now = now.apply(changed(Kind.POD, versioned(each, 1000 + number)))
    enrolled = {uid: each.workload for uid, each in here(was).items() if each.workload}
    for step in steps(here(now), [Held(*each) for each in enrolled.items()], claimed=frozenset()):
        match step:
            case Withdraw():
                del enrolled[step.uid]
            case Relabel() | Readdress():
                enrolled[step.uid] = step.workload
            case Enrol():
                assert step.uid not in enrolled
                taken = {a for each in enrolled.values() for a in each.addresses}
                # Only one that stays, since nobody can say whose the address is, may be in the way.
                unsure = {a for uid, each in here(now).items() if uid in enrolled for a in each.addresses}
                assert {str(a) for a in taken & set(step.workload.addresses)} <= unsure
                enrolled[step.uid] = step.workload
    for uid, shown in here(now).items():
        if shown.workload is not None:
            assert enrolled[uid] == shown.workload
    for uid in enrolled:
        assert here(now)[uid].standing is not Standing.OUTSIDE


def versioned(value: Json, version: int) -> Json:
    return {**value, "metadata": {**value["metadata"], "resourceVersion": str(version)}}
