"""Who answers at the authority's address: by its certificate and ours, or, before there is any, by the token's root."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.errors import AuthorityError, AuthorityUnavailable, InvalidInput, PeerRejected, utc
from interceptor.identity.certificates import fingerprint
from interceptor.identity.node_id import AuthorityId
from interceptor.identity.trust_bundle import TrustBundle, TrustBundles
from interceptor.policy.verdict import Reason
from interceptor.transport.infrastructure_tls import unverified_context

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

    from interceptor.authority_client.resolve import Way
    from interceptor.identity.spiffe_id import TrustDomain


async def bundles_of_token(way: Way, trust_domain: TrustDomain, root_fingerprint: str) -> TrustBundles:
    """Get the root that a token names from whoever answers: its hash is in the token, so it can be believed.

    Nothing is sent to a server that is not verified.  AuthorityError when it does not show that root.
    """
    connection = await way.connect(unverified_context())
    shown = connection.stream.presented_chain()
    connection.close()
    for certificate in shown:
        if fingerprint(certificate) == root_fingerprint:
            try:
                return TrustBundles({trust_domain: TrustBundle(trust_domain, (certificate,))})
            except InvalidInput as error:
                raise AuthorityError(
                    f"the authority at {way.address} shows a root of no use: {error}"
                ) from None
    raise AuthorityError(
        f"what answers at {way.address} is not the authority that made the token (no root {root_fingerprint[:16]}…): check "
        "the address; if the root was rotated since, make another token"
    )


def require_authority(
    verified_chain: tuple[x509.Certificate, ...],
    bundles: TrustBundles,
    trust_domain: TrustDomain,
    now: datetime,
) -> None:
    """Raise AuthorityError unless a verified chain is that of the authority's service of our trust domain.

    AuthorityUnavailable, naming the skew, when a clock is wrong: that may be set right.
    """
    try:
        found = bundles.identify_authority(verified_chain, now)
    except PeerRejected as error:
        if error.reason in (Reason.PEER_CERTIFICATE_EXPIRED, Reason.PEER_CERTIFICATE_NOT_YET_VALID):
            raise AuthorityUnavailable(_clock_fault(verified_chain, now)) from None
        raise AuthorityError(f"what answers is not the authority: {error}") from None
    if found != AuthorityId(trust_domain):
        raise AuthorityError(f"what answers is {found}, expected {AuthorityId(trust_domain)}")


def _clock_fault(chain: tuple[x509.Certificate, ...], now: datetime) -> str:
    """What can be known: an authority that is well renews its certificate, so that by its clock it is valid now."""
    begins = max(certificate.not_valid_before_utc for certificate in chain)
    ends = min(certificate.not_valid_after_utc for certificate in chain)
    side, skew = ("ahead of", now - ends) if now > ends else ("behind", begins - now)
    otherwise = (
        "; or its certificate was not renewed, see 'interceptor ca status' there" if now > ends else ""
    )
    return (
        f"clock_skew: this node's clock says {utc(now)}, the authority's certificate is valid from {utc(begins)} to "
        f"{utc(ends)}: the node's clock is at least {skew.total_seconds():.0f} s {side} the authority's, set it by NTP"
        f"{otherwise}"
    )
