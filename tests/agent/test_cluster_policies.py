"""The policies of a cluster are looked at again when they say something else, and not when something is told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from interceptor.agent.cluster_policies import ClusterPolicies
from interceptor.agent.policy_files import PolicyFiles
from interceptor.cluster.cluster import Cluster, Kind
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse import parse_file
from tests.cluster.api_objects import changed, listed, policy

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.kubernetes.cluster_watch import ClusterWatch

DENY = {"action": "DENY", "rules": [{}]}


class Known:
    """A watch that knows this."""

    def __init__(self) -> None:
        self.cluster = Cluster()

    def change(self, spec: object, version: int, **status: object) -> None:
        value = {**policy("shop/p", version=version), "spec": spec, "status": status}
        self.cluster = self.cluster.apply(changed(Kind.AUTHORIZATION_POLICY, value))


def test_signature_changes_with_what_is_said_and_not_with_the_status(tmp_path: Path) -> None:
    known = Known()
    policies = ClusterPolicies(
        PolicyFiles(tmp_path, MeshNames()),
        cast("ClusterWatch", known),
        lambda place, text: parse_file(place, text, MeshNames()),
    )
    seen = [policies.signature()]

    def is_news() -> bool:
        seen.append(policies.signature())
        return seen[-1] != seen[-2]

    assert not is_news()
    for kind in (Kind.PEER_AUTHENTICATION, Kind.AUTHORIZATION_POLICY):
        known.cluster = known.cluster.apply(listed(kind, 1))
    assert is_news()  # that there are none is known now
    known.change(DENY, 2)
    assert is_news()
    known.change(DENY, 3, conditions=[{"type": "interceptor.io/Accepted", "status": "True"}])
    assert not is_news()
    known.change({**DENY, "rules": ["x" * 300_000]}, 4)
    assert is_news()
    known.change(DENY, 5)
    assert is_news()
