"""Which rules change their meaning, exactly which ports of them, and which do not."""

from __future__ import annotations

import pytest

from interceptor.network_policy.analysis import Effect, analyse
from interceptor.network_policy.mesh_view import MeshView
from tests.network_policy.world import found, manifests, namespace, policy

WEB = "podSelector: {matchLabels: {app: web}}"


def test_ports_that_leave_15008_out_stop_matching_and_are_named():
    assert found(
        policy(f"""
            {WEB}
            ingress:
            - from: [{{podSelector: {{matchLabels: {{app: front}}}}}}]
              ports: [{{port: 80}}, {{port: http, protocol: TCP}}, {{port: 53, protocol: UDP}}, {{port: 8000, endPort: 9000}}]
        """)
    ) == ["web ingress[0] stops_matching: 80/TCP, http/TCP, 8000-9000/TCP | pods app=front"]


def test_egress_of_a_policy_without_policy_types_is_looked_at():
    assert found(
        policy(f"""
            {WEB}
            egress:
            - to: [{{podSelector: {{}}, namespaceSelector: {{}}}}]
              ports: [{{port: 5432}}]
        """)
    ) == ["web egress[0] stops_matching: 5432/TCP | all pods in all namespaces"]


def test_rules_of_a_side_that_the_policy_does_not_restrict_mean_nothing():
    assert found(policy(f"{WEB}\npolicyTypes: [Ingress]\negress: [{{ports: [{{port: 80}}]}}]")) == []


@pytest.mark.parametrize(
    "rule",
    [
        "{}",
        "",
        "{from: [{podSelector: {}}]}",
        "{ports: []}",
        "{ports: [{protocol: UDP, port: 53}, {protocol: SCTP, port: 7}]}",
        "{ports: [{protocol: TCP}]}",
        "{ports: [{port: 1, endPort: 65535}]}",
        "{ports: [{port: 80}, {port: 15008}]}",
    ],
)
def test_rule_that_says_nothing_about_tcp_ports_or_lets_the_tunnel_through_keeps_its_meaning(rule):
    assert found(policy(f"{WEB}\ningress:\n- {rule}")) == []


def test_policy_that_lets_nothing_through_keeps_its_meaning():
    assert found(policy("podSelector: {}\npolicyTypes: [Ingress, Egress]")) == []


def test_range_that_happens_to_contain_15008_lets_every_port_through():
    assert found(policy(f"{WEB}\ningress: [{{ports: [{{port: 80}}, {{port: 1024, endPort: 32767}}]}}]")) == [
        "web ingress[0] every_port: 1024-32767/TCP"
    ]


@pytest.mark.parametrize(
    ("peer", "left"),
    [
        ("ipBlock: {cidr: 203.0.113.0/24}", None),
        (
            "ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10]}",
            None,
        ),
        ("ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16]}", "100.64.0.0/10"),
        ("ipBlock: {cidr: 10.9.0.0/16, except: [10.9.1.0/24]}", "10.9.0.0/16 except 10.9.1.0/24"),
        ("ipBlock: {cidr: '::/0'}", "fc00::/7"),
        ("podSelector: {matchLabels: {interceptor.io/mesh: none}}", None),
        ("podSelector: {matchLabels: {istio.io/dataplane-mode: none}}", None),
        ("namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}", None),
        (
            "namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [a]}]}",
            "all pods in namespaces kubernetes.io/metadata.name not in (a)",
        ),
        (
            "namespaceSelector: {matchLabels: {team: a}, matchExpressions: [{key: b, operator: Exists}, {key: d, operator: In, values: [x, y]}]}",
            "all pods in namespaces b,d in (x, y),team=a",
        ),
    ],
)
def test_peers_that_cannot_be_in_the_mesh_are_left_out(peer, left):
    expected = [] if left is None else [f"web ingress[0] stops_matching: 80/TCP | {left}"]
    assert found(policy(f"{WEB}\ningress: [{{from: [{{{peer}}}], ports: [{{port: 80}}]}}]")) == expected


RULE = "ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}, {podSelector: {}}], ports: [{port: 80}]}]"
MEMBER = {"interceptor.io/mesh": "enabled"}


@pytest.mark.parametrize(
    ("namespaces", "enrol", "peers"),
    [
        ([], (), "all pods in namespaces team=a | all pods"),
        ([("shop", {})], (), None),
        ([("shop", MEMBER)], (), "all pods"),
        ([("shop", {"istio.io/dataplane-mode": "ambient"})], (), "all pods"),
        ([("shop", {"istio.io/dataplane-mode": "ambient", "interceptor.io/mesh": "none"})], (), None),
        ([("shop", {**MEMBER, "team": "a"})], (), "all pods in namespaces team=a | all pods"),
        ([("shop", MEMBER), ("ops", {"team": "a"})], (), "all pods"),
        ([("shop", {}), ("ops", {"team": "a"})], ("shop",), "all pods"),
        ([("shop", MEMBER), ("ops", {"team": "a"})], ("ops",), "all pods in namespaces team=a | all pods"),
        # Nothing is known of the labels of a namespace that is only named.
        ([], ("shop",), "all pods in namespaces team=a | all pods"),
        ([], ("ops",), None),
    ],
)
def test_namespaces_are_in_the_mesh_by_label_or_by_name(namespaces, enrol, peers):
    documents = [policy(f"{WEB}\n{RULE}"), *(namespace(name, **labels) for name, labels in namespaces)]
    expected = [] if peers is None else [f"web ingress[0] stops_matching: 80/TCP | {peers}"]
    assert found(*documents, enrol=enrol) == expected


def test_policy_of_a_system_namespace_counts_only_when_it_is_enrolled_by_name():
    document = policy(f"{WEB}\ningress: [{{ports: [{{port: 80}}]}}]", namespace="kube-system")
    assert found(document) == []
    assert len(found(document, enrol=("kube-system",))) == 1


def test_policy_of_pods_that_are_excepted_keeps_its_meaning():
    assert (
        found(
            policy(
                "podSelector: {matchLabels: {interceptor.io/mesh: none}}\ningress: [{ports: [{port: 80}]}]"
            )
        )
        == []
    )


OPEN = "ports: [{port: 15008}]"


@pytest.mark.parametrize(
    ("affected", "other", "is_lost"),
    [
        ("from: [{podSelector: {matchLabels: {a: b}}}]", "ports: []", False),
        ("from: [{podSelector: {matchLabels: {a: b}}}]", f"from: [{{podSelector: {{}}}}], {OPEN}", False),
        ("from: [{podSelector: {}}]", f"from: [{{podSelector: {{matchLabels: {{a: b}}}}}}], {OPEN}", True),
        (
            "from: [{podSelector: {}}, {podSelector: {}, namespaceSelector: {}}]",
            f"from: [{{podSelector: {{}}}}], {OPEN}",
            True,
        ),
        ("from: [{podSelector: {}}]", f"from: [{{namespaceSelector: {{}}}}], {OPEN}", False),
        (
            "from: [{podSelector: {}}]",
            f"from: [{{namespaceSelector: {{matchLabels: {{a: b}}}}}}], {OPEN}",
            True,
        ),
        (
            "from: [{namespaceSelector: {matchLabels: {a: b}}}]",
            f"from: [{{namespaceSelector: {{}}}}], {OPEN}",
            False,
        ),
        ("from: [{podSelector: {}}]", f"from: [{{ipBlock: {{cidr: 0.0.0.0/0}}}}], {OPEN}", True),
        ("from: [{ipBlock: {cidr: 10.0.0.0/16}}]", f"from: [{{podSelector: {{}}}}], {OPEN}", True),
        (
            "from: [{ipBlock: {cidr: 10.0.0.0/16}}]",
            f"from: [{{ipBlock: {{cidr: 10.0.0.0/8}}}}], {OPEN}",
            False,
        ),
        (
            "from: [{ipBlock: {cidr: 10.0.0.0/8}}]",
            f"from: [{{ipBlock: {{cidr: 10.0.0.0/16}}}}], {OPEN}",
            True,
        ),
        ("from: [{ipBlock: {cidr: 10.0.0.0/8}}]", f"from: [{{ipBlock: {{cidr: '::/0'}}}}], {OPEN}", True),
        (
            "from: [{ipBlock: {cidr: 10.0.0.0/16}}]",
            f"from: [{{ipBlock: {{cidr: 10.0.0.0/8, except: [10.0.1.0/24]}}}}], {OPEN}",
            True,
        ),
        (
            "from: [{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.0.0/23]}}]",
            f"from: [{{ipBlock: {{cidr: 10.0.0.0/8, except: [10.0.1.0/24, 10.7.0.0/16]}}}}], {OPEN}",
            False,
        ),
        ("ports: [{port: 80}]", f"from: [{{podSelector: {{}}}}], {OPEN}", True),
        ("ports: [{port: 80}]", OPEN, False),
        ("ports: [{port: 80}]", "ports: [{port: 81}]", True),
    ],
)
def test_rule_is_lost_unless_another_lets_all_of_its_peers_through_to_the_tunnel(affected, other, is_lost):
    rule = affected if "ports" in affected else f"{affected}, ports: [{{port: 80}}]"
    lines = found(
        policy(f"{WEB}\ningress: [{{{rule}}}]"),
        policy(f"podSelector: {{}}\ningress: [{{{other}}}]", name="other"),
    )
    assert any(line.startswith("web ingress[0] stops_matching") for line in lines) == is_lost


@pytest.mark.parametrize(
    "other",
    [
        policy(f"podSelector: {{matchLabels: {{app: web, v: '2'}}}}\ningress: [{{{OPEN}}}]", name="narrower"),
        policy(f"podSelector: {{}}\ningress: [{{{OPEN}}}]", name="elsewhere", namespace="db"),
        policy(f"podSelector: {{}}\negress: [{{{OPEN}}}]\npolicyTypes: [Egress]", name="other-side"),
    ],
)
def test_rule_stays_lost_when_another_opens_the_tunnel_for_other_pods_or_the_other_side(other):
    assert len(found(policy(f"{WEB}\ningress: [{{ports: [{{port: 80}}]}}]"), other)) == 1


def test_finding_says_where_it_is_and_what_it_means():
    read = manifests(
        policy(f"{WEB}\ningress:\n- {{from: [{{podSelector: {{}}}}]}}\n- {{ports: [{{port: 80}}]}}")
    )
    (finding,) = analyse(read.policies, MeshView.of({}))
    assert (str(finding.policy), finding.name, finding.place) == ("shop/web", "ingress[1]", "all.yaml:8")
    assert all(effect.explanation for effect in Effect)
