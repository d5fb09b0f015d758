"""The policies that are printed: exactly these, readable by the parsers of their kinds, never of a name that is taken."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from interceptor.network_policy import restricted
from interceptor.network_policy.analysis import analyse
from interceptor.network_policy.companions import Companion, companions
from interceptor.network_policy.mesh_view import MeshView
from interceptor.network_policy.parse import parse_manifests
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import parse_policies
from tests.network_policy.world import manifests, policy

WEB = "podSelector: {matchLabels: {app: web}}"


def beside(*documents: str) -> tuple[Companion, ...]:
    read = manifests(*documents)
    mesh = MeshView.of(read.namespaces)
    found = companions(analyse(read.policies, mesh), read.policies, mesh)
    for companion in found:
        if companion.document is None:
            continue
        text = yaml.safe_dump(companion.document)
        if companion.document["kind"] == "NetworkPolicy":
            assert len(parse_manifests([("c", text)]).policies) == 1
        else:
            assert len(parse_policies([("c", text)], MeshNames())) == 1
    return found


def of_kind(found: tuple[Companion, ...], kind: str) -> list[dict[str, Any]]:
    return [each.document for each in found if each.document and each.document["kind"] == kind]


def denied(found: tuple[Companion, ...]) -> list[list[str]]:
    return [
        each["spec"]["rules"][0]["to"][0]["operation"]["notPorts"]
        for each in of_kind(found, "AuthorizationPolicy")
    ]


def test_companions_open_the_tunnel_to_the_same_peers_and_keep_other_ports_closed_first():
    found = beside(
        policy("""
            podSelector: {matchLabels: {app: web}}
            ingress:
            - from:
              - podSelector: {matchLabels: {app: front}}
              - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
              - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
              ports: [{port: 443}, {port: 80}, {port: 53, protocol: UDP}]
            egress:
            - to: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: Exists}]}}]
              ports: [{port: pg}]
            - to: [{ipBlock: {cidr: 203.0.113.0/24}}]
              ports: [{port: 443}]
        """)
    )
    metadata = {
        "name": "web-tunnel",
        "namespace": "shop",
        "labels": {"app.kubernetes.io/managed-by": "interceptor"},
    }
    tunnel = [{"protocol": "TCP", "port": 15008}]
    assert [each.document for each in found] == [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "action": "DENY",
                "rules": [
                    {
                        "from": [{"source": {"principals": ["*"]}}],
                        "to": [{"operation": {"notPorts": ["80", "443"]}}],
                    }
                ],
            },
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata,
            "spec": {
                "podSelector": {"matchLabels": {"app": "web"}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [
                    {
                        "from": [
                            {"podSelector": {"matchLabels": {"app": "front"}}},
                            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                        ],
                        "ports": tunnel,
                    }
                ],
                "egress": [
                    {
                        "to": [
                            {
                                "namespaceSelector": {},
                                "podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
                            }
                        ],
                        "ports": tunnel,
                    }
                ],
            },
        },
    ]
    assert found[1].remarks == (
        "Opens the tunnel's port to whom shop/web lets in or out (all.yaml:1).",
        "The ports that may be reached through the tunnel are for the receiving side to restrict.",
    )


def test_rules_that_would_open_the_same_are_one_rule():
    found = beside(policy("podSelector: {}\ningress: [{ports: [{port: 80}]}, {ports: [{port: 81}]}]"))
    (network_policy,) = of_kind(found, "NetworkPolicy")
    assert network_policy["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": 15008}]}],
    }
    (authorization,) = of_kind(found, "AuthorizationPolicy")
    assert "selector" not in authorization["spec"]


def test_policy_whose_meaning_stays_has_no_companion():
    assert beside(policy(WEB)) == ()


def test_range_that_is_open_too_far_is_closed_again_and_nothing_is_opened():
    found = beside(policy(f"{WEB}\ningress: [{{ports: [{{port: 15007, endPort: 15009}}]}}]"))
    assert of_kind(found, "NetworkPolicy") == []
    assert denied(found) == [["15007", "15008", "15009"]]


def test_range_that_cannot_be_closed_again_is_told_of():
    (found,) = beside(policy(f"{WEB}\ningress: [{{ports: [{{port: 1024, endPort: 32767}}]}}]"))
    assert found.document is None
    assert found.remarks[0].startswith(
        "The tunnel is open too far in shop/web, and stays so: ingress[0] of shop/web"
    )


def test_ports_of_every_policy_that_may_select_the_same_pods_stay_open():
    found = beside(
        policy(f"{WEB}\ningress: [{{ports: [{{port: 80}}]}}]"),
        policy("podSelector: {matchLabels: {tier: back}}\ningress: [{ports: [{port: 81}]}]", name="b"),
        policy("podSelector: {matchLabels: {app: db}}\ningress: [{ports: [{port: 82}]}]", name="c"),
        policy("podSelector: {}\ningress: [{ports: [{port: 15008}], from: [{podSelector: {}}]}]", name="d"),
        policy("podSelector: {}\ningress: [{ports: [{port: 83}]}]", name="e", namespace="elsewhere"),
        policy(
            "podSelector: {}\ningress: [{ports: [{port: 84}], from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]",
            name="f",
        ),
    )
    assert denied(found) == [["80", "81"], ["80", "81", "82"], ["81", "82"], ["83"]]


def test_one_denial_is_enough_for_policies_of_the_same_pods():
    rule = "ingress: [{{ports: [{{port: {0}}}]}}]"
    found = beside(*(policy(f"{WEB}\n{rule.format(port)}", name=f"p{port}") for port in (80, 81)))
    assert denied(found) == [["80", "81"]]
    assert [each["metadata"]["name"] for each in of_kind(found, "NetworkPolicy")] == [
        "p80-tunnel",
        "p81-tunnel",
    ]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (
            f"{WEB}\ningress: [{{ports: [{{port: http}}]}}]",
            "names a port (http), and an AuthorizationPolicy takes",
        ),
        (
            f"{WEB}\ningress: [{{ports: [{{port: 80}}, {{port: 20000, endPort: 21000}}]}}]",
            "more than 500 ports",
        ),
        (
            f"{WEB}\ningress: [{{ports: [{{port: 80}}]}}, {{from: [{{podSelector: {{}}}}]}}]",
            "lets every port through",
        ),
        (
            f"{WEB}\ningress: [{{ports: [{{port: 80}}]}}, {{from: [{{podSelector: {{}}}}], ports: [{{protocol: TCP}}]}}]",
            "has a range of more than 500 ports (all/TCP)",
        ),
        (
            "podSelector: {matchExpressions: [{key: a, operator: Exists}]}\ningress: [{ports: [{port: 80}]}]",
            "this selector has expressions",
        ),
    ],
)
def test_policy_whose_ports_cannot_be_kept_closed_says_why(spec, why):
    (found,) = beside(policy(spec))
    assert found.document
    assert found.document["kind"] == "NetworkPolicy"
    assert why in found.remarks[1]


def test_ports_that_are_too_many_together_are_not_listed(monkeypatch):
    monkeypatch.setattr(restricted, "MAX_PORTS", 2)
    rules = "ingress: [{ports: [{port: 80}, {port: 81}, {port: 82}]}]"
    (found,) = beside(policy(f"{WEB}\n{rules}"))
    assert "there would be 3 ports, more than 2" in found.remarks[1]


def test_egress_alone_is_opened_without_a_denial():
    (found,) = beside(policy(f"{WEB}\npolicyTypes: [Egress]\negress: [{{ports: [{{port: 80}}]}}]"))
    assert found.document
    assert found.document["spec"]["policyTypes"] == ["Egress"]


def test_name_that_is_taken_or_too_long_is_not_used():
    long = ".".join(["a" * 62] * 4)
    rule = "ingress: [{ports: [{port: 80}]}]"
    found = beside(
        policy(f"{WEB}\n{rule}"),
        policy("podSelector: {matchLabels: {app: other}}", name="web-tunnel"),
        policy(f"{WEB}\n{rule}", name=long),
    )
    names = [each["metadata"]["name"] for each in of_kind(found, "NetworkPolicy")]
    assert names[0] == "web-tunnel-2"
    assert names[1].startswith("a" * 62)
    assert len(names[1]) <= 253
