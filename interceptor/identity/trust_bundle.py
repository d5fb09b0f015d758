"""Whom we believe: the roots of each trust domain, and who a verified certificate chain says that it is.

OpenSSL builds and checks the chain (signatures, basic constraints, name constraints); what it does not know is here:
that a root vouches for its own domain only, and what was revoked. The shape of a leaf is in leaf_profile.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from interceptor.errors import InvalidInput, PeerRejected, quoted, utc
from interceptor.identity.leaf_profile import (
    UNREADABLE,
    authority_id_of,
    find_extension,
    node_id_of,
    spiffe_id_of,
)
from interceptor.identity.node_id import AuthorityId, Identity, NodeId
from interceptor.identity.revocation import RevocationList
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain

# Values of the closed set of reasons in policy/verdict.py.
PEER_UNTRUSTED: Final = "peer_untrusted"
PEER_CERTIFICATE_EXPIRED: Final = "peer_certificate_expired"
PEER_CERTIFICATE_NOT_YET_VALID: Final = "peer_certificate_not_yet_valid"
PEER_REVOKED: Final = "peer_revoked"


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots of one trust domain: at least one, several while a root is being replaced."""

    trust_domain: TrustDomain
    roots: tuple[x509.Certificate, ...]

    def __post_init__(self) -> None:
        """Raise InvalidInput unless there are roots and each is a self-issued certificate authority."""
        if not self.roots:
            raise InvalidInput(
                f"trust bundle of {self.trust_domain} is empty, give at least one root certificate"
            )
        for number, root in enumerate(self.roots, start=1):
            if not _is_root(root):
                raise InvalidInput(
                    f"trust bundle of {self.trust_domain}: certificate {number} is no self-signed certificate "
                    "authority, give the root certificate"
                )

    @classmethod
    def from_pem(cls, trust_domain: TrustDomain, data: bytes) -> Self:
        """Read concatenated PEM certificates; raises InvalidInput."""
        try:
            roots = tuple(x509.load_pem_x509_certificates(data))
        except ValueError:
            raise InvalidInput(f"trust bundle of {trust_domain} is not a list of PEM certificates") from None
        return cls(trust_domain, roots)

    def to_pem(self) -> bytes:
        return b"".join(root.public_bytes(Encoding.PEM) for root in self.roots)


@dataclass(frozen=True, slots=True)
class TrustBundles:
    """A snapshot of all that is believed: trust bundles by trust domain, other names of our own, revocations.

    `aliases` are trust domains whose identities count as those of `own`, as while a trust domain is renamed; they are
    verified against the alias's own bundle if there is one, else against that of `own`.
    """

    bundles: Mapping[TrustDomain, TrustBundle]
    aliases: tuple[TrustDomain, ...] = ()
    own: TrustDomain | None = None
    revoked: RevocationList = field(default_factory=RevocationList.empty)

    def __post_init__(self) -> None:
        """Keep a private copy of the mapping; raise InvalidInput if a bundle stands under another domain's name."""
        for trust_domain, bundle in self.bundles.items():
            if bundle.trust_domain != trust_domain:
                raise InvalidInput(f"trust bundle of {bundle.trust_domain} is filed under {trust_domain}")
        if self.aliases and (self.own is None or self.own in self.aliases):
            raise InvalidInput(f"trust domain {self.own} cannot have the aliases {_listed(self.aliases)}")
        object.__setattr__(self, "bundles", MappingProxyType(dict(self.bundles)))

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """Every root of every domain: what OpenSSL's store gets."""
        return tuple(root for bundle in self.bundles.values() for root in bundle.roots)

    def canonical(self, spiffe_id: SpiffeId) -> SpiffeId:
        """The identity as our own trust domain names it: what registry and policy compare."""
        if self.own is None or spiffe_id.trust_domain not in self.aliases:
            return spiffe_id
        return SpiffeId(self.own, spiffe_id.namespace, spiffe_id.service_account)

    def identify(self, verified_chain: tuple[x509.Certificate, ...], now: datetime) -> SpiffeId:
        """Say who the peer is, as its certificate names it (see `canonical`).

        `verified_chain` is the chain as OpenSSL verified it, leaf first, anchor last; `now` is aware. The times are
        checked again because a connection may outlive OpenSSL's look at them. Raises PeerRejected with one of the
        reasons at the top of this module.
        """
        spiffe_id = spiffe_id_of(_leaf(verified_chain))
        self._require_trusted(verified_chain, spiffe_id, now)
        return spiffe_id

    def identify_node(self, verified_chain: tuple[x509.Certificate, ...], now: datetime) -> NodeId:
        """Say which node the peer is, after the same checks; raises PeerRejected."""
        node_id = node_id_of(_leaf(verified_chain))
        self._require_trusted(verified_chain, node_id, now)
        return node_id

    def identify_authority(self, verified_chain: tuple[x509.Certificate, ...], now: datetime) -> AuthorityId:
        """Say whose authority's service the peer is, after the same checks; raises PeerRejected."""
        authority_id = authority_id_of(_leaf(verified_chain))
        self._require_trusted(verified_chain, authority_id, now)
        return authority_id

    def require_not_revoked(self, identity: Identity, serials: Iterable[str]) -> None:
        """Raise PeerRejected("peer_revoked") if the identity, as named or canonical, or one of the serials is revoked."""
        canonical = self.canonical(identity) if isinstance(identity, SpiffeId) else identity
        entry = self.revoked.find(str(identity), (str(canonical), *serials))
        if entry is not None:
            what = (
                f"{identity}" if entry.value == str(identity) else f"{entry.kind} {entry.value} of {identity}"
            )
            why = f": {entry.why}" if entry.why else ""
            raise PeerRejected(PEER_REVOKED, f"{what} was revoked at {utc(entry.revoked_at)}{why}")

    def _require_trusted(
        self, chain: tuple[x509.Certificate, ...], identity: Identity, now: datetime
    ) -> None:
        _require_valid_at(chain, identity, now)
        bundle = self._bundle_for(identity.trust_domain)
        if bundle is None:
            raise PeerRejected(
                PEER_UNTRUSTED,
                f"{identity} is of a trust domain without trust bundle, known are: {_listed(self.bundles)}",
            )
        if chain[-1] not in bundle.roots:
            raise PeerRejected(
                PEER_UNTRUSTED,
                f"{identity} is vouched for by {quoted(chain[-1].subject.rfc4514_string())}, "
                f"which is no root of {identity.trust_domain}",
            )
        self.require_not_revoked(identity, serial_numbers(chain))

    def _bundle_for(self, trust_domain: TrustDomain) -> TrustBundle | None:
        if trust_domain in self.aliases and self.own is not None:
            return self.bundles.get(trust_domain) or self.bundles.get(self.own)
        return self.bundles.get(trust_domain)


def serial_numbers(chain: Iterable[x509.Certificate]) -> tuple[str, ...]:
    """The serial numbers of a chain, as revocations name them."""
    return tuple(f"{certificate.serial_number:x}" for certificate in chain)


def _leaf(verified_chain: tuple[x509.Certificate, ...]) -> x509.Certificate:
    if not verified_chain:
        raise PeerRejected(PEER_UNTRUSTED, "peer has no verified certificate chain, enrol it in the mesh")
    return verified_chain[0]


def _require_valid_at(chain: tuple[x509.Certificate, ...], spiffe_id: Identity, now: datetime) -> None:
    for certificate in chain:
        if now > certificate.not_valid_after_utc:
            raise PeerRejected(
                PEER_CERTIFICATE_EXPIRED,
                f"certificate of {_subject(certificate, chain, spiffe_id)} expired at "
                f"{utc(certificate.not_valid_after_utc)}, now is {utc(now)}",
            )
        if now < certificate.not_valid_before_utc:
            raise PeerRejected(
                PEER_CERTIFICATE_NOT_YET_VALID,
                f"certificate of {_subject(certificate, chain, spiffe_id)} is not valid before "
                f"{utc(certificate.not_valid_before_utc)}, now is {utc(now)}, compare the clocks of both nodes",
            )


def _subject(certificate: x509.Certificate, chain: tuple[x509.Certificate, ...], spiffe_id: Identity) -> str:
    return str(spiffe_id) if certificate is chain[0] else quoted(certificate.subject.rfc4514_string())


def _is_root(certificate: x509.Certificate) -> bool:
    try:
        constraints = find_extension(certificate.extensions, x509.BasicConstraints)
        self_issued = certificate.subject == certificate.issuer
    except UNREADABLE:
        return False
    return self_issued and constraints is not None and constraints.ca


def _listed(trust_domains: Iterable[TrustDomain]) -> str:
    return ", ".join(sorted(str(trust_domain) for trust_domain in trust_domains)) or "none"
