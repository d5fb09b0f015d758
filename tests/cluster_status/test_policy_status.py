"""Whether a policy can be enforced is said by the parser of those who enforce it."""

import pytest

from interceptor.cluster.cluster import Cluster, Kind
from interceptor.cluster.head import ObjectKey
from interceptor.cluster_status.policy_status import PolicyStates
from interceptor.policy.documents import Document
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import parse_file
from tests.cluster.api_objects import changed, listed, policy

DENY = {"action": "DENY", "rules": [{}]}
PARSED: list[str] = []


def parse(place: str, text: str) -> tuple[Document, ...]:
    PARSED.append(place)
    return parse_file(place, text, MeshNames())


@pytest.fixture
def states() -> PolicyStates:
    PARSED.clear()
    return PolicyStates(parse)


def cluster(*policies: dict[str, object]) -> Cluster:
    return Cluster().apply(listed(Kind.AUTHORIZATION_POLICY, 10, *policies))


def name(of: str) -> tuple[str, ObjectKey]:
    return "AuthorizationPolicy", ObjectKey("shop", of)


def test_policies_are_accepted_or_not_with_the_line_that_says_why(states: PolicyStates) -> None:
    found = states.of(cluster(policy("shop/good", DENY), policy("shop/bad", {"action": "PERHAPS"})))
    assert found[name("good")].condition.holds
    bad = found[name("bad")].condition
    assert (bad.holds, bad.reason) == (False, "Invalid")
    assert "PERHAPS" in bad.message
    assert "agents keep its last good state" in bad.message


def test_policy_that_cannot_even_be_read_is_not_accepted(states: PolicyStates) -> None:
    found = states.of(cluster(policy("shop/big", {"rules": ["x" * 300_000]})))
    state = found[name("big")]
    assert (state.condition.holds, state.generation, state.told) == (False, None, None)
    assert "characters" in state.condition.message
    # Also when an earlier state of it is still known.
    before = cluster(policy("shop/big", DENY))
    after = before.apply(
        changed(Kind.AUTHORIZATION_POLICY, policy("shop/big", {"rules": ["x" * 300_000]}, version=11))
    )
    assert states.of(before)[name("big")].condition.holds
    assert not states.of(after)[name("big")].condition.holds


def test_policy_is_parsed_again_only_when_it_says_something_else(states: PolicyStates) -> None:
    before = cluster(policy("shop/p", DENY), policy("shop/q", DENY))
    states.of(before)
    told = policy("shop/p", DENY, version=11)
    told["status"] = {"conditions": [{"type": "interceptor.io/Accepted", "status": "True"}]}
    after = before.apply(changed(Kind.AUTHORIZATION_POLICY, told))
    assert states.of(after)[name("p")].told is not None
    assert len(PARSED) == 2
    states.of(
        after.apply(changed(Kind.AUTHORIZATION_POLICY, policy("shop/p", {"action": "ALLOW"}, version=12)))
    )
    assert len(PARSED) == 3
    states.of(cluster())
    states.of(before)
    assert len(PARSED) == 5
