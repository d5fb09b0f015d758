"""What status says of the authorities above: nothing while they are well, and what to do when they are late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from interceptor.agent.health import authority_problems
from interceptor.identity.authority import Authority
from interceptor.identity.certificates import fingerprint
from interceptor.identity.node_id import NodeId
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.identity.svid import NodeSvid

if TYPE_CHECKING:
    from cryptography import x509

DOMAIN = TrustDomain("cluster.local")
NODE = NodeId(DOMAIN, "node-a")


def svid(authority: Authority, *, made: timedelta) -> NodeSvid:
    """A certificate for an hour, issued `made` ago."""
    key, at = create_private_key(), datetime.now(UTC) - made
    chain = authority.sign(create_signing_request(NODE, key), NODE, timedelta(hours=1), at)
    return NodeSvid(NODE, chain, key, at)


def node(
    *svids: NodeSvid,
    roots: tuple[x509.Certificate, ...] = (),
    own: NodeSvid | None = None,
    error: str = "",
    refusal: str | None = None,
    unkept: str | None = None,
    clock_skew: str | None = None,
    problem: str | None = None,
) -> Any:
    renewal = None if own is None else SimpleNamespace(certificate=own, last_error=error or None)
    return SimpleNamespace(
        credentials=SimpleNamespace(node=renewal, svids=lambda: iter(svids)),
        follower=SimpleNamespace(
            clock_skew=clock_skew,
            own_roots=lambda: roots,
            refusal=refusal,
            unkept=unkept,
            access=SimpleNamespace(problem=problem),
        ),
    )


def authority(*, made: timedelta) -> Authority:
    return Authority.create(DOMAIN, datetime.now(UTC) - made)


def test_authorities_that_are_well_are_no_problem() -> None:
    young = authority(made=timedelta(days=200))
    good = svid(young, made=timedelta(minutes=1))
    assert authority_problems(node(good, roots=(young.root,), own=good)) == []
    assert authority_problems(node()) == []


def test_disk_that_keeps_nothing_of_what_a_restart_needs_is_a_problem() -> None:
    assert authority_problems(
        node(unkept="cannot write trust.json: full", problem="cannot write return.token: full")
    ) == [
        "a restart would lose what this node believes now, a rotation waits for it: cannot write trust.json: full",
        "this node could not come back by itself after a boot: cannot write return.token: full",
    ]


def test_clock_that_differs_from_the_authoritys_is_a_problem() -> None:
    assert authority_problems(node(clock_skew="clock_skew: node-a's clock is 300 s ahead")) == [
        "clocks differ, nothing can be renewed: clock_skew: node-a's clock is 300 s ahead"
    ]


def test_node_that_its_authority_refuses_is_a_problem_with_the_reason() -> None:
    assert authority_problems(node(refusal="node_not_authorised: it was removed")) == [
        "the authority refuses this node: node_not_authorised: it was removed"
    ]


def test_intermediate_past_three_quarters_of_its_life_is_a_problem_with_a_remedy() -> None:
    old = authority(made=timedelta(days=300))
    (problem,) = authority_problems(node(svid(old, made=timedelta(minutes=1)), roots=(old.root,)))
    assert problem.startswith(
        f"the authority's intermediate certificate {fingerprint(old.intermediate)[:16]} ends at "
    )
    assert problem.endswith(": put the root key back, or 'interceptor ca rotate intermediate'")


def test_root_past_three_quarters_of_its_life_is_a_problem_with_a_remedy() -> None:
    old = authority(made=timedelta(days=2800))
    (problem,) = authority_problems(node(roots=(old.root,)))
    assert problem.startswith(f"the authority's root certificate {fingerprint(old.root)[:16]} ends at ")
    assert problem.endswith(": begin with 'interceptor ca rotate prepare'")


def test_node_whose_own_certificate_was_not_renewed_is_a_problem_with_the_reason() -> None:
    late = svid(authority(made=timedelta(days=1)), made=timedelta(minutes=50))
    (problem,) = authority_problems(node(own=late, error="node_revoked: it was stolen"))
    assert problem.startswith("the node's own certificate, until ")
    assert problem.endswith(", was not renewed: node_revoked: it was stolen")
