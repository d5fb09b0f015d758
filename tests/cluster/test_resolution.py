"""A service's address leads where kube-proxy would lead it, unless nothing of it is in the mesh."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from interceptor.cluster.affinity import Affinity
from interceptor.cluster.cluster import Cluster, Kind
from interceptor.cluster.names import addresses_of_name
from interceptor.cluster.resolution import Client, Outcome, Resolution, resolve
from interceptor.errors import InvalidInput
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.workload import Endpoint
from tests.cluster.api_objects import (
    MESH,
    changed,
    cluster_of,
    endpoint,
    endpoint_slice,
    namespace,
    pod,
    service,
)

DOMAIN = TrustDomain("cluster.local")
HERE = Client("node-1", "zone-a")
ENDPOINTS = (
    endpoint("10.0.0.1", "web-1", node="node-1"),
    endpoint("10.0.0.2", "web-2", node="node-2"),
    endpoint("10.0.0.3", "web-3", node="node-2"),
)
PODS = (pod("shop/web-1", "10.0.0.1"), pod("shop/web-2", "10.0.0.2"), pod("shop/web-3", "10.0.0.3"))


def shop(
    *endpoints: dict[str, Any],
    labels: dict[str, str] | None = MESH,
    pods: tuple[dict[str, Any], ...] = PODS,
    ports: list[dict[str, Any]] | None = None,
    **spec: Any,
) -> Cluster:
    """A service web with these endpoints, at 10.96.0.1 and, from outside, 203.0.113.1."""
    return cluster_of(
        namespaces=[namespace("shop", labels=labels)] if labels is not None else [],
        pods=pods,
        services=[service("shop/web", "10.96.0.1", externalIPs=["203.0.113.1"], **spec)],
        slices=[endpoint_slice("shop/web-x", "web", *endpoints, ports=ports or [])],
    )


def led(cluster: Cluster, to: str = "10.96.0.1:80", client: Client = HERE) -> Resolution:
    return resolve(cluster, Endpoint.parse(to), client, DOMAIN)


def candidates(resolution: Resolution) -> list[str]:
    return [str(each.endpoint) for each in resolution.candidates]


def test_service_leads_to_its_ready_endpoints_at_their_own_port() -> None:
    found = led(shop(*ENDPOINTS))
    assert found.outcome is Outcome.SERVICE
    assert candidates(found) == ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
    assert [str(each.pod.head.key) for each in found.candidates if each.pod] == [
        "shop/web-1",
        "shop/web-2",
        "shop/web-3",
    ]
    assert led(shop(*ENDPOINTS), "203.0.113.1:80").candidates == found.candidates


def test_address_of_a_pod_leads_to_itself() -> None:
    found = led(shop(*ENDPOINTS), "10.0.0.2:9000")
    assert (found.outcome, candidates(found)) == (Outcome.POD, ["10.0.0.2:9000"])


@pytest.mark.parametrize("claim", [{"externalIPs": ["10.96.0.1", "10.0.0.1"]}, {"ingress": "10.96.0.1"}])
def test_address_that_another_service_claims_as_external_stays_its_own(claim: dict[str, Any]) -> None:
    thief = service("a-thief/web", "10.96.0.66", **claim)
    if "ingress" in claim:
        thief["status"] = {"loadBalancer": {"ingress": [{"ip": claim["ingress"]}]}}
    cluster = shop(*ENDPOINTS).apply(
        changed(Kind.SERVICE, {**thief, "metadata": {**thief["metadata"], "resourceVersion": "101"}})
    )
    found = led(cluster)
    assert found.service is not None
    assert str(found.service.head.key) == "shop/web"
    assert led(cluster, "10.0.0.1:80").outcome is Outcome.POD


def test_address_of_nobody_is_not_touched() -> None:
    assert led(shop(*ENDPOINTS), "192.0.2.1:80").outcome is Outcome.UNTOUCHED


def test_service_of_pods_outside_of_the_mesh_is_not_touched() -> None:
    assert led(shop(*ENDPOINTS, labels={})).outcome is Outcome.UNTOUCHED
    excepted = tuple(
        {**each, "metadata": {**each["metadata"], "labels": {"interceptor.io/mesh": "none"}}} for each in PODS
    )
    assert led(shop(*ENDPOINTS, pods=excepted)).outcome is Outcome.UNTOUCHED
    assert led(shop(*ENDPOINTS, pods=excepted), "10.96.0.1:81").outcome is Outcome.UNTOUCHED
    outside = endpoint("198.51.100.1", None)
    assert led(shop(outside)).outcome is Outcome.UNTOUCHED


def test_service_of_which_something_is_in_the_mesh_leads_also_to_what_is_not() -> None:
    found = led(shop(ENDPOINTS[0], endpoint("198.51.100.1", None)))
    assert candidates(found) == ["10.0.0.1:8080", "198.51.100.1:8080"]
    assert found.candidates[1].pod is None


@pytest.mark.parametrize(
    ("labels", "outcome"),
    [(MESH, Outcome.NO_CANDIDATE), (None, Outcome.NO_CANDIDATE), ({}, Outcome.UNTOUCHED)],
)
def test_service_without_endpoints_is_as_its_namespace(
    labels: dict[str, str] | None, outcome: Outcome
) -> None:
    assert led(shop(labels=labels)).outcome is outcome


def test_port_that_the_service_has_not_is_refused() -> None:
    found = led(shop(*ENDPOINTS), "10.96.0.1:81")
    assert (found.outcome, found.candidates) == (Outcome.NO_SUCH_PORT, ())


def test_slice_without_the_port_and_the_other_family_are_left_out() -> None:
    assert led(shop(*ENDPOINTS, ports=[{"name": "other", "port": 1}])).outcome is Outcome.NO_CANDIDATE
    assert led(shop(endpoint("fd00::1", "web-1"))).outcome is Outcome.NO_CANDIDATE


def test_endpoints_that_serve_while_they_end_are_used_when_no_other_is_ready() -> None:
    ending = {"ready": False, "serving": True, "terminating": True}
    away = {"ready": False, "serving": False}
    first, second, third = (
        endpoint("10.0.0.1", "web-1", **ending),
        endpoint("10.0.0.2", "web-2", **away),
        endpoint("10.0.0.3", "web-3", ready=True),
    )
    assert candidates(led(shop(first, second, third))) == ["10.0.0.3:8080"]
    assert candidates(led(shop(first, second))) == ["10.0.0.1:8080"]
    assert led(shop(second)).outcome is Outcome.NO_CANDIDATE


def test_internal_traffic_policy_local_keeps_connections_on_their_node() -> None:
    cluster = shop(*ENDPOINTS, internalTrafficPolicy="Local")
    assert candidates(led(cluster)) == ["10.0.0.1:8080"]
    assert len(led(cluster, client=Client("node-2", None)).candidates) == 2
    assert led(cluster, client=Client("node-3", None)).outcome is Outcome.NO_CANDIDATE
    assert (
        len(led(cluster, "203.0.113.1:80").candidates) == 3
    )  # the policy is about the cluster's own addresses


def test_zone_hints_count_when_every_endpoint_has_them_and_one_is_for_us() -> None:
    hinted = (
        endpoint("10.0.0.1", "web-1", zones=["zone-a"]),
        endpoint("10.0.0.2", "web-2", zones=["zone-b", "zone-a"]),
        endpoint("10.0.0.3", "web-3", zones=["zone-b"]),
    )
    assert candidates(led(shop(*hinted))) == ["10.0.0.1:8080", "10.0.0.2:8080"]
    assert len(led(shop(*hinted), client=Client("node-1", None)).candidates) == 3
    assert len(led(shop(*hinted), client=Client("node-1", "zone-c")).candidates) == 3
    assert len(led(shop(*hinted[:2], ENDPOINTS[2])).candidates) == 3


def test_node_hints_count_before_those_of_zones() -> None:
    hinted = (
        endpoint("10.0.0.1", "web-1", nodes=["node-1"], zones=["zone-a"]),
        endpoint("10.0.0.2", "web-2", nodes=["node-2"], zones=["zone-a"]),
        endpoint("10.0.0.3", "web-3", nodes=["node-2"], zones=["zone-b"]),
    )
    assert candidates(led(shop(*hinted))) == ["10.0.0.1:8080"]
    assert candidates(led(shop(*hinted), client=Client("node-3", "zone-b"))) == ["10.0.0.3:8080"]
    assert len(led(shop(*hinted), client=Client("node-3", "zone-c")).candidates) == 3
    without = (*hinted[:2], endpoint("10.0.0.3", "web-3", zones=["zone-b"]))
    assert candidates(led(shop(*without))) == ["10.0.0.1:8080", "10.0.0.2:8080"]


def test_endpoints_that_serve_while_they_end_are_used_whatever_their_hints() -> None:
    ending = {"ready": False, "serving": True, "terminating": True}
    hinted = (
        endpoint("10.0.0.1", "web-1", zones=["zone-a"], **ending),
        endpoint("10.0.0.2", "web-2", zones=["zone-b"], **ending),
    )
    assert len(led(shop(*hinted)).candidates) == 2


def test_endpoint_that_is_said_to_be_no_pod_may_be_a_new_one_inside_the_meshs_ranges() -> None:
    mesh = (ip_network("10.0.0.0/8"),)
    unknown, beyond = endpoint("10.0.0.9", None), endpoint("198.51.100.1", None)

    def inside(cluster: Cluster) -> Resolution:
        return resolve(cluster, Endpoint.parse("10.96.0.1:80"), HERE, DOMAIN, mesh)

    assert candidates(inside(shop(ENDPOINTS[0], unknown, beyond))) == ["10.0.0.1:8080", "198.51.100.1:8080"]
    assert inside(shop(unknown)).outcome is Outcome.NO_CANDIDATE
    assert inside(shop(beyond)).outcome is Outcome.UNTOUCHED
    assert candidates(inside(shop(endpoint("10.0.0.1", None)))) == ["10.0.0.1:8080"]


def test_address_that_two_pods_claim_is_no_services_external_one() -> None:
    twins = (pod("shop/web-1", "203.0.113.1"), pod("shop/web-2", "203.0.113.1"))
    found = led(shop(*ENDPOINTS, pods=twins), "203.0.113.1:80")
    assert (found.outcome, found.service) == (Outcome.UNTOUCHED, None)


def test_load_balancer_that_is_to_be_reached_itself_is_not_the_services_address() -> None:
    balanced = service("shop/lb", "10.96.0.7")
    balanced["metadata"]["resourceVersion"] = "101"
    balanced["status"] = {
        "loadBalancer": {"ingress": [{"ip": "203.0.113.8", "ipMode": "Proxy"}, {"ip": "203.0.113.9"}]}
    }
    cluster = shop(*ENDPOINTS).apply(changed(Kind.SERVICE, balanced))
    assert cluster.service_at(ip_address("203.0.113.8")) is None
    assert cluster.service_at(ip_address("203.0.113.9")) is not None


def test_endpoint_whose_pod_is_not_there_yet_or_is_another_now_is_not_used() -> None:
    unknown = endpoint("10.0.0.9", "web-9")
    assert candidates(led(shop(*ENDPOINTS, unknown))) == candidates(led(shop(*ENDPOINTS)))
    replaced = endpoint("10.0.0.1", "web-1", uid="of-the-one-before")
    assert led(shop(replaced)).outcome is Outcome.NO_CANDIDATE
    assert led(shop(replaced, labels={})).outcome is Outcome.UNTOUCHED
    moved = endpoint("10.0.0.2", "web-1")
    assert led(shop(moved)).outcome is Outcome.NO_CANDIDATE


def test_address_reused_by_a_pod_of_another_account_is_not_taken_for_the_services_pod() -> None:
    """The slice still names the pod that had the address; whoever has it now serves something else."""
    cluster = shop(ENDPOINTS[0], ENDPOINTS[1]).apply(
        changed(Kind.POD, pod("shop/web-1", "10.0.0.1", version=105, deleting=True))
    )
    thief = pod("shop/thief", "10.0.0.1", version=106, account="thief")
    assert candidates(led(cluster.apply(changed(Kind.POD, thief)))) == ["10.0.0.2:8080"]


def test_pods_on_the_host_network_are_endpoints_outside_of_the_mesh() -> None:
    host = pod("shop/web-1", "192.0.2.10", host_network=True)
    there = endpoint("192.0.2.10", "web-1")
    assert led(shop(there, pods=(host,))).outcome is Outcome.UNTOUCHED
    mixed = led(shop(there, ENDPOINTS[1], pods=(host, PODS[1])))
    assert candidates(mixed) == ["192.0.2.10:8080", "10.0.0.2:8080"]
    elsewhere = endpoint("192.0.2.11", "web-1")
    assert candidates(led(shop(elsewhere, ENDPOINTS[1], pods=(host, PODS[1])))) == ["10.0.0.2:8080"]


CLIENT = ip_address("10.0.0.77")


def test_choice_is_even() -> None:
    found = led(shop(*ENDPOINTS))
    chosen = [Affinity().choose(found, CLIENT, draw=number / 300, now=0.0) for number in range(300)]
    assert [chosen.count(each) for each in found.candidates] == [100, 100, 100]


def test_choice_among_a_pod_alone_is_that_pod() -> None:
    found = led(shop(*ENDPOINTS), "10.0.0.2:9000")
    assert Affinity().choose(found, CLIENT, draw=0.99, now=0.0) is found.candidates[0]


def test_session_affinity_gives_a_client_the_same_pod_until_it_stays_away_or_the_pod_goes() -> None:
    sticky = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
    found, affinity = led(shop(*ENDPOINTS, **sticky)), Affinity()

    def chosen(draw: float, now: float, client: str = "10.0.0.77", resolution: Resolution = found) -> str:
        return str(affinity.choose(resolution, ip_address(client), draw=draw, now=now).endpoint.address)

    assert chosen(0.0, now=0.0) == "10.0.0.1"
    assert chosen(0.9, now=50.0) == "10.0.0.1"
    assert chosen(0.9, now=100.0) == "10.0.0.1"  # 60 s after the last, not after the first
    assert chosen(0.9, now=100.0, client="10.0.0.78") == "10.0.0.3"
    fewer = led(shop(*ENDPOINTS[1:], **sticky))
    assert chosen(0.0, now=101.0, resolution=fewer) == "10.0.0.2"
    assert chosen(0.9, now=102.0) == "10.0.0.2"
    assert chosen(0.9, now=163.0) == "10.0.0.3"


def test_session_affinity_remembers_a_bounded_number_of_clients() -> None:
    found, affinity = led(shop(*ENDPOINTS, sessionAffinity="ClientIP")), Affinity(limit=2)
    for client in ("10.0.0.71", "10.0.0.72", "10.0.0.71", "10.0.0.73"):
        affinity.choose(found, ip_address(client), draw=0.0, now=0.0)
    again = [affinity.choose(found, ip_address(f"10.0.0.7{n}"), draw=0.9, now=0.0) for n in (1, 3, 2)]
    assert [str(each.endpoint.address) for each in again] == ["10.0.0.1", "10.0.0.1", "10.0.0.3"]


def _named() -> Cluster:
    return cluster_of(
        services=[service("shop/web", "10.96.0.1"), service("shop/db", "None")],
        slices=[
            endpoint_slice(
                "shop/db-x",
                "db",
                endpoint("10.0.0.1", "db-0", hostname="db-0"),
                endpoint("10.0.0.2", "db-1", hostname="db-1"),
                endpoint("10.0.0.3", "db-2", hostname="db-2", ready=False),
            )
        ],
    )


@pytest.mark.parametrize(
    ("name", "namespace", "addresses"),
    [
        ("web", "shop", ["10.96.0.1"]),
        ("web.shop", "bank", ["10.96.0.1"]),
        ("web.shop.svc", "bank", ["10.96.0.1"]),
        ("web.shop.svc.cluster.local", "bank", ["10.96.0.1"]),
        ("db", "shop", ["10.0.0.1", "10.0.0.2"]),
        ("db-1.db", "shop", ["10.0.0.2"]),
        ("db-1.db.shop", "bank", ["10.0.0.2"]),
        ("db-1.db.shop.svc.cluster.local", "bank", ["10.0.0.2"]),
        ("db-2.db", "shop", []),
    ],
)
def test_name_of_a_service_has_the_addresses_that_dns_gives(
    name: str, namespace: str, addresses: list[str]
) -> None:
    assert list(map(str, addresses_of_name(_named(), name, namespace))) == addresses


@pytest.mark.parametrize("name", ["web", "db.db.db.db", "x.web.shop", "svc", "", "web.svc"])
def test_name_that_is_no_services_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="is no service seen from namespace bank, give SERVICE"):
        addresses_of_name(_named(), name, "bank")


def test_endpoints_follow_the_slices_as_they_change() -> None:
    cluster = shop(*ENDPOINTS)
    cluster = cluster.apply(
        changed(Kind.ENDPOINT_SLICE, endpoint_slice("shop/web-x", "web", ENDPOINTS[1], version=101))
    )
    assert candidates(led(cluster)) == ["10.0.0.2:8080"]
    cluster = cluster.apply(changed(Kind.ENDPOINT_SLICE, endpoint_slice("shop/web-y", None, version=102)))
    assert candidates(led(cluster)) == ["10.0.0.2:8080"]
