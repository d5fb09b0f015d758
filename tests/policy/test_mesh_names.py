"""`cluster.local` in a principal is the mesh's own trust domain, whatever that is called: as in Istio.

Its source says (pilot/pkg/security/trustdomain/bundle.go): 'or if the extracted/existing trust domain is "cluster.local",
which is a pointer to the local trust domain and its aliases'.
"""

from dataclasses import replace

import pytest

from interceptor.errors import InvalidInput, PolicyError
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.attempts import InboundAttempt
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import parse_policies
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import PolicySet
from interceptor.policy.verdict import Permit
from interceptor.workload import Endpoint
from tests.policy.world import DB, WEB, authorization, egress

OURS = MeshNames(trust_domain="example.org")


def permits(text: str, identity: str) -> bool:
    policies = PolicySet(MtlsMode.STRICT, parse_policies([("p.yaml", text)], OURS))
    peer = SpiffeId.parse(f"spiffe://{identity}")
    target = replace(DB, identity=SpiffeId.parse("spiffe://example.org/ns/shop/sa/db"))
    holder = replace(WEB, identity=peer)
    attempt = InboundAttempt(target, Endpoint(DB.addresses[0], 80), WEB.addresses[0], peer, holder)
    return isinstance(policies.decide_inbound(attempt), Permit)


@pytest.mark.parametrize("scheme", ["", "spiffe://"])
@pytest.mark.parametrize(
    "rule",
    [
        "from: [{source: {principals: ['SCHEMEcluster.local/ns/shop/sa/web']}}]",
        "from: [{source: {principals: ['SCHEMEcluster.local/ns/shop/sa/*']}}]",
        "when: [{key: source.principal, values: ['SCHEMEcluster.local/ns/shop/sa/web']}]",
    ],
)
def test_deny_that_was_written_for_istio_denies_here(rule: str, scheme: str) -> None:
    text = authorization("deny", action="DENY", rules=f"[{{{rule.replace('SCHEME', scheme)}}}]")
    assert not permits(text, "example.org/ns/shop/sa/web")
    assert permits(text, "other.org/ns/shop/sa/web")
    assert permits(text, "cluster.local/ns/shop/sa/web")  # a mesh that is called so, and is not ours


def test_negated_principal_means_ours_too() -> None:
    text = authorization(
        "deny", action="DENY", rules="[{from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/web]}}]}]"
    )
    assert permits(text, "example.org/ns/shop/sa/web")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("cluster.local/ns/a/sa/b", "example.org/ns/a/sa/b"),
        ("other.org/ns/a/sa/b", "other.org/ns/a/sa/b"),
        ("*/ns/a/sa/b", "/ns/a/sa/b"),
        ("*cluster.local/ns/a/sa/b", "cluster.local/ns/a/sa/b"),
        ("cluster.local", "cluster.local"),
        ("cluster.lo*", "cluster.lo"),
        ("*", ""),
    ],
)
def test_principal_is_compared_as(text: str, key: str) -> None:
    pattern = OURS.principal(text)
    assert (pattern.key, pattern.text) == (key, text)


def test_part_of_a_principal_that_would_match_nobody_is_refused() -> None:
    with pytest.raises(InvalidInput, match="write example"):
        OURS.principal("cluster.local/ns/shop/*")
    assert MeshNames().principal("cluster.local/ns/shop/*").key == "cluster.local/ns/shop/"
    with pytest.raises(PolicyError, match=r"p.yaml:6:.*identities\[0\]: 'cluster.local/\*' matches nobody"):
        parse_policies([("p.yaml", egress("x", allow="[{identities: ['cluster.local/*']}]"))], OURS)
