"""What is read, what is left to others, and what is refused, with its place."""

from __future__ import annotations

import contextlib
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from interceptor.errors import PolicyError
from interceptor.network_policy import parse as parse_module
from interceptor.network_policy.parse import MAX_DEPTH, parse_manifests
from tests.network_policy.world import manifests, namespace, policy

MINIMAL = policy("podSelector: {}")


def refusal(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        parse_manifests([("f.yaml", text)])
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_lists_streams_and_json_are_read_and_other_kinds_counted():
    documents = list(
        yaml.safe_load_all("---\n".join([MINIMAL, namespace("shop", a="b"), "kind: Deployment\n"]))
    )
    as_list = {"apiVersion": "v1", "kind": "List", "items": documents, "metadata": {"resourceVersion": ""}}
    for text in (
        "---\n".join(map(yaml.safe_dump, documents)),
        yaml.safe_dump(as_list),
        json.dumps(as_list, indent=4),
    ):
        read = parse_manifests([("f", text)])
        assert [str(each) for each in read.policies] == ["shop/web"]
        assert read.namespaces == {"shop": {"a": "b"}}
        assert read.others == 1
        assert read.related == {}


def test_policies_of_other_kinds_are_told_of():
    texts = (
        "kind: CiliumNetworkPolicy\napiVersion: cilium.io/v2\n",
        "kind: NetworkPolicy\napiVersion: crd.projectcalico.org/v1\nitems: 3\n",
        "kind: NetworkPolicy\n",
        "kind: [NetworkPolicy]\n",
    )
    read = manifests(*texts)
    assert read.related == {
        "CiliumNetworkPolicy of cilium.io/v2": 1,
        "NetworkPolicy of crd.projectcalico.org/v1": 1,
        "NetworkPolicy of no apiVersion": 1,
    }
    assert (read.policies, read.others) == ((), 1)


def test_namespace_without_labels_and_policy_without_a_namespace_are_read():
    text = MINIMAL.replace(", namespace: shop", "")
    read = parse_manifests(
        [("f", text + "---\nkind: Namespace\napiVersion: v1\nmetadata: {name: n}\n")], "mine"
    )
    assert str(read.policies[0]) == "mine/web"
    assert read.namespaces == {"n": {}}


def test_policy_that_is_there_twice_must_be_the_same():
    assert len(manifests(MINIMAL, MINIMAL).policies) == 1
    other = policy("podSelector: {}\npolicyTypes: [Egress]")
    assert refusal(f"{MINIMAL}---\n{other}") == (
        "f.yaml:7:1: NetworkPolicy shop/web is there twice and not the same, first in f.yaml:1"
    )


def test_each_file_tells_its_first_problem():
    with pytest.raises(PolicyError) as caught:
        parse_manifests([("a", "x: ["), ("b", MINIMAL), ("c", MINIMAL.replace("podSelector", "podSelektor"))])
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["a", "c"]


def test_too_many_policies_are_refused(monkeypatch):
    monkeypatch.setattr(parse_module, "MAX_POLICIES", 1)
    assert "more than 1 NetworkPolicies" in refusal(MINIMAL + "---\n" + policy("podSelector: {}", name="b"))


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("podSelektor: {}", "f.yaml:5:3: spec.podSelektor: unknown field, did you mean 'podSelector'?"),
        ("podSelector: x", "spec.podSelector: expected 'key: value' lines, not the value 'x'"),
        ("podSelector: {matchLabels: {a: 1}}", "spec.podSelector.matchLabels.a: '1' is not text to YAML"),
        ("podSelector: {matchLabels: {'a b': c}}", "label key 'a b' is not valid"),
        ("podSelector: {matchLabels: {a: 'b c'}}", "label 'a' has the value 'b c'"),
        (
            "podSelector: {matchExpressions: [{key: a, operator: Is}]}",
            "operator: 'Is' is not one of In, NotIn",
        ),
        ("podSelector: {matchExpressions: [{key: a, operator: In}]}", "operator In needs values"),
        ("podSelector: {matchExpressions: [{key: a, operator: In, values: []}]}", "operator In needs values"),
        (
            "podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
            "operator Exists takes no values",
        ),
        ("podSelector: {matchExpressions: [{key: '', operator: Exists}]}", "label key '' is not valid"),
        (
            "podSelector: {matchExpressions: [{key: a, operator: In, values: ['*']}]}",
            "label 'a' has the value '*'",
        ),
        ("podSelector: {matchExpressions: [{operator: In}]}", "'key' is missing"),
        ("policyTypes: [ingress]", "f.yaml:5:17: spec.policyTypes[0]: 'ingress' is not a policy type"),
        ("policyTypes: Ingress", "spec.policyTypes: expected a list, not the value 'Ingress'"),
        ("ingress: {}", "spec.ingress: expected a list, not a mapping"),
        ("ingress: [x]", "spec.ingress[0]: expected 'key: value' lines"),
        ("ingress: [{to: []}]", "spec.ingress[0].to: unknown field"),
        ("egress: [{from: []}]", "spec.egress[0].from: unknown field"),
        ("ingress: [{from: [{}]}]", "spec.ingress[0].from[0]: has no peer"),
        (
            "ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]",
            "has an ipBlock and a selector",
        ),
        ("ingress: [{from: [{ipBlock: {}}]}]", "'cidr' is missing"),
        ("ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]", "'10.0.0.1' is not a CIDR"),
        ("ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/99}}]}]", "'10.0.0.0/99' is not a CIDR"),
        (
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]",
            "spec.ingress[0].from[0].ipBlock.except[0]: 10.0.0.0/8 is not a part of 10.0.0.0/8",
        ),
        (
            "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['::/0']}}]}]",
            "::/0 is not a part of 10.0.0.0/8",
        ),
        ("ingress: [{ports: [{port: 0}]}]", "spec.ingress[0].ports[0].port: '0' is not a port"),
        ("ingress: [{ports: [{port: 65536}]}]", "'65536' is not a port, expected 1 to 65535"),
        ("ingress: [{ports: [{port: 0x50}]}]", "'0x50' is not a port"),
        (
            "ingress: [{ports: [{port: '80'}]}]",
            "'80' is not the name of a port, write numbers without quotes",
        ),
        ("ingress: [{ports: [{port: HTTP}]}]", "'HTTP' is not the name of a port"),
        ("ingress: [{ports: [{port: [80]}]}]", "port: expected one value, not a list"),
        ("ingress: [{ports: [{protocol: tcp}]}]", "protocol 'tcp' is not one of TCP, UDP, SCTP"),
        ("ingress: [{ports: [{endPort: 80}]}]", "endPort: needs a port, from which the range begins"),
        ("ingress: [{ports: [{port: http, endPort: 80}]}]", "endPort: needs a port that is a number"),
        ("ingress: [{ports: [{port: 81, endPort: 80}]}]", "the range ends with 80, before its begin 81"),
        ("podSelector: &a {}", "f.yaml:5:16: cannot be read, anchors and aliases are not allowed"),
        ("podSelector: {}\npodSelector: {}", "f.yaml:6:3: key 'spec.podSelector' is there twice"),
    ],
)
def test_policy_that_the_api_would_not_take_as_it_stands_is_refused_with_its_place(spec, problem):
    assert problem in refusal(policy(spec))


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (
            "metadata: {name: web, namespace: shop}",
            "metadata: {namespace: shop}",
            "metadata: 'name' is missing",
        ),
        ("name: web", "name: We_b", "metadata.name: 'We_b' is not a name that Kubernetes takes"),
        ("namespace: shop", "namespace: a.b", "metadata.namespace: namespace 'a.b' is not a valid name"),
        ("spec:", "spek:", "'spec' is missing"),
        ("kind: NetworkPolicy", "kind: NetworkPolicy\nfoo: 1", "foo: unknown field"),
    ],
)
def test_policy_with_a_wrong_head_is_refused(before, after, problem):
    assert problem in refusal(MINIMAL.replace(before, after))


def test_what_is_no_document_is_refused():
    assert refusal("- a\n") == "f.yaml:1:1: expected 'key: value' lines, not a list"
    assert "f.yaml:1:" in refusal("{{ .Values.x }}: y")
    assert "nested deeper" in refusal("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2))
    assert "f.yaml:1:4: cannot be read" in refusal("a: \x00")
    assert "items, at most 10000" in refusal(policy(f"ingress: [{'{},' * 10001}]"))


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(PolicyError):
        parse_manifests([("f", text)])
