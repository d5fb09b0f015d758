"""Whom a node takes for its authority, and what it says about clocks: without a network."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from interceptor.authority_client.recognise import require_authority
from interceptor.errors import AuthorityError, AuthorityUnavailable
from interceptor.identity.authority import Authority
from interceptor.identity.node_id import AuthorityId
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.identity.trust_bundle import TrustBundles

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OURS, OTHER = (Authority.create(TrustDomain(name), NOW) for name in ("cluster.local", "other.example"))
BUNDLES = TrustBundles({one.trust_domain: one.trust_bundle for one in (OURS, OTHER)})


def chain_of(authority: Authority) -> tuple[object, ...]:
    identity = AuthorityId(authority.trust_domain)
    request = create_signing_request(identity, create_private_key())
    return (*authority.sign(request, identity, DAY, NOW), authority.root)


def test_authority_of_our_own_trust_domain_is_recognised() -> None:
    require_authority(chain_of(OURS), BUNDLES, OURS.trust_domain, NOW)  # type: ignore[arg-type]


def test_authority_of_a_federated_trust_domain_is_not_ours() -> None:
    with pytest.raises(
        AuthorityError, match=r"answers is spiffe://other\.example/authority, expected spiffe://cluster"
    ):
        require_authority(chain_of(OTHER), BUNDLES, OURS.trust_domain, NOW)  # type: ignore[arg-type]


OR_ELSE = "; or its certificate was not renewed, see 'interceptor ca status' there"


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (
            NOW + DAY + HOUR,
            "the node's clock is at least 3600 s ahead of the authority's, set it by NTP" + OR_ELSE,
        ),
        (NOW - HOUR, "the node's clock is at least 3540 s behind the authority's, set it by NTP"),
        (
            NOW + 366 * DAY,
            "the node's clock is at least 31536000 s ahead of the authority's, set it by NTP" + OR_ELSE,
        ),
    ],
)
def test_clock_that_is_wrong_is_named_with_the_least_skew_it_can_have(now: datetime, told: str) -> None:
    with pytest.raises(AuthorityUnavailable) as caught:
        require_authority(chain_of(OURS), BUNDLES, OURS.trust_domain, now)  # type: ignore[arg-type]
    assert str(caught.value).startswith("clock_skew: this node's clock says 202")
    assert str(caught.value).endswith(told)
