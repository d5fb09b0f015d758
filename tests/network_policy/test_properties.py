"""Random policies and pods: what passed before the mesh passes in it with companions, and no port is opened by them."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from interceptor.network_policy.analysis import Effect, analyse
from interceptor.network_policy.companions import Companion, companions
from interceptor.network_policy.mesh_view import MeshView
from interceptor.network_policy.parse import parse_manifests
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import parse_policies
from tests.network_policy.naive import TUNNEL, Pod, is_denied, passes

# Some of everything: shop and db are in the mesh, ops is not.
NAMESPACES = {
    "shop": {"kubernetes.io/metadata.name": "shop", "team": "a", "interceptor.io/mesh": "enabled"},
    "db": {"kubernetes.io/metadata.name": "db", "team": "b", "istio.io/dataplane-mode": "ambient"},
    "ops": {"kubernetes.io/metadata.name": "ops", "team": "a"},
}
LABELS = [{}, {"app": "web"}, {"app": "db", "tier": "back"}]
PODS = [
    Pod(namespace, labels, f"10.0.{row}.{column}", {"http": 8080})
    for row, namespace in enumerate(NAMESPACES)
    for column, labels in enumerate(LABELS)
]
PORTS = [22, 80, 443, 8080, 8500, 15000]  # one of each entry below, and one that none names
IN_MESH = [pod for pod in PODS if pod.namespace != "ops"]


def _requirements() -> st.SearchStrategy[dict[str, Any]]:
    key = st.sampled_from(["app", "tier"])
    values = st.lists(st.sampled_from(["web", "db", "back"]), min_size=1, max_size=2, unique=True)
    with_values = st.fixed_dictionaries(
        {"key": key, "operator": st.sampled_from(["In", "NotIn"]), "values": values}
    )
    without = st.fixed_dictionaries({"key": key, "operator": st.sampled_from(["Exists", "DoesNotExist"])})
    return with_values | without


SELECTORS = st.sampled_from(
    [{}, {"matchLabels": {"app": "web"}}, {"matchLabels": {"app": "db", "tier": "back"}}]
) | st.lists(_requirements(), min_size=1, max_size=2).map(lambda found: {"matchExpressions": found})
NAMESPACE_SELECTORS = st.sampled_from(
    [
        {},
        {"matchLabels": {"team": "a"}},
        {"matchLabels": {"kubernetes.io/metadata.name": "ops"}},
        {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]},
    ]
)
BLOCKS = st.sampled_from(
    [
        {"cidr": "0.0.0.0/0"},
        {"cidr": "10.0.0.0/24"},
        {"cidr": "10.0.0.0/23", "except": ["10.0.1.1/32"]},
        {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/16"]},
        {"cidr": "192.0.2.0/24"},
    ]
)
PEERS = (
    st.fixed_dictionaries({"podSelector": SELECTORS}, optional={"namespaceSelector": NAMESPACE_SELECTORS})
    | st.fixed_dictionaries({"namespaceSelector": NAMESPACE_SELECTORS})
    | st.fixed_dictionaries({"ipBlock": BLOCKS})
)
ENTRIES = st.sampled_from(
    [
        {"port": 80},
        {"protocol": "TCP", "port": 443},
        {"port": "http"},
        {"port": 14990, "endPort": 15010},
        {"port": 8000, "endPort": 9000},
        {"protocol": "TCP"},
        {"protocol": "UDP", "port": 53},
        {"port": TUNNEL},
    ]
)


def _rules(peers: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    rule = st.fixed_dictionaries(
        {}, optional={peers: st.lists(PEERS, max_size=2), "ports": st.lists(ENTRIES, max_size=2)}
    )
    return st.lists(rule, max_size=2)


POLICIES = st.lists(
    st.builds(
        lambda namespace, spec: {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": namespace},
            "spec": spec,
        },
        st.sampled_from(["shop", "shop", "db"]),
        st.fixed_dictionaries(
            {
                "podSelector": SELECTORS,
                "policyTypes": st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
                "ingress": _rules("from"),
                "egress": _rules("to"),
            }
        ),
    ),
    min_size=1,
    max_size=4,
)


def named(policies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for number, policy in enumerate(policies):
        policy["metadata"]["name"] = f"p{number}"
    return policies


def text(documents: list[dict[str, Any]]) -> str:
    namespaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        for name, labels in NAMESPACES.items()
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [*documents, *namespaces]})


def documents_of(found: tuple[Companion, ...]) -> list[dict[str, Any]]:
    return [each.document for each in found if each.document is not None]


@settings(max_examples=100, deadline=None, phases=set(Phase) - {Phase.explain})
@given(POLICIES.map(named))
def test_what_passed_before_passes_in_the_mesh_with_companions_and_nothing_else_is_opened(documents):
    manifests = parse_manifests([("all.json", text(documents))])
    mesh = MeshView.of(manifests.namespaces)
    findings = analyse(manifests.policies, mesh)
    extra = documents_of(companions(findings, manifests.policies, mesh))
    together = [*documents, *extra]
    lost = any(finding.effect is Effect.STOPS_MATCHING for finding in findings)

    for source, target in product(PODS, PODS):
        passed = [port for port in PORTS if passes(documents, NAMESPACES, source, target, port)]
        assert passed == [port for port in PORTS if passes(together, NAMESPACES, source, target, port)]
        through_tunnel = passes(documents, NAMESPACES, source, target, TUNNEL)
        with_companions = passes(together, NAMESPACES, source, target, TUNNEL)
        if passed and source in IN_MESH and target in IN_MESH:
            # Without a finding nothing is lost; with companions nothing is lost either, nor denied by them.
            assert lost or through_tunnel
            assert with_companions
            assert not any(is_denied(extra, target, port) for port in passed)
        if with_companions and not through_tunnel:
            # Neither end lets anybody in or out whom none of its own rules lets through on some port.
            for end in ("Egress", "Ingress"):
                assert any(passes(documents, NAMESPACES, source, target, port, (end,)) for port in PORTS)


@settings(max_examples=100, deadline=None, phases=set(Phase) - {Phase.explain})
@given(POLICIES.map(named))
def test_companions_are_valid_and_leave_no_rule_that_stops_matching(documents):
    manifests = parse_manifests([("all.json", text(documents))])
    mesh = MeshView.of(manifests.namespaces)
    extra = documents_of(companions(analyse(manifests.policies, mesh), manifests.policies, mesh))
    again = parse_manifests([("all.json", text([*documents, *extra]))])
    left = analyse(again.policies, mesh)
    assert not any(finding.effect is Effect.STOPS_MATCHING for finding in left)
    assert len(again.policies) + again.others == len(documents) + len(extra)
    denying = [each for each in extra if each["kind"] == "AuthorizationPolicy"]
    assert again.others == len(denying)
    if denying:
        stream = "\n---\n".join(map(json.dumps, denying))
        assert len(parse_policies([("extra.yaml", stream)], MeshNames())) == len(denying)
