"""Whom we believe: the roots of each trust domain, and who a verified certificate chain says that it is.

OpenSSL builds and checks the chain (signatures, basic constraints, name constraints); what it does not know is here:
the shape of an SVID (X509-SVID specification, sections 4 and 5), and that a root vouches for its own domain only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from interceptor.errors import InvalidInput, PeerRejected, quoted, utc
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_UNREADABLE: Final = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)

# Values of the closed set of reasons in policy/verdict.py.
PEER_UNTRUSTED: Final = "peer_untrusted"
PEER_CERTIFICATE_EXPIRED: Final = "peer_certificate_expired"
PEER_CERTIFICATE_NOT_YET_VALID: Final = "peer_certificate_not_yet_valid"
PEER_IDENTITY_INVALID: Final = "peer_identity_invalid"


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
    """A snapshot of all trust bundles in force, by trust domain."""

    bundles: Mapping[TrustDomain, TrustBundle]

    def __post_init__(self) -> None:
        """Keep a private copy of the mapping; raise InvalidInput if a bundle stands under another domain's name."""
        for trust_domain, bundle in self.bundles.items():
            if bundle.trust_domain != trust_domain:
                raise InvalidInput(f"trust bundle of {bundle.trust_domain} is filed under {trust_domain}")
        object.__setattr__(self, "bundles", MappingProxyType(dict(self.bundles)))

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """Every root of every domain: what OpenSSL's store gets."""
        return tuple(root for bundle in self.bundles.values() for root in bundle.roots)

    def identify(self, verified_chain: tuple[x509.Certificate, ...], now: datetime) -> SpiffeId:
        """Say who the peer is.

        `verified_chain` is the chain as OpenSSL verified it, leaf first, anchor last; `now` is aware. The times are
        checked again because a connection may outlive OpenSSL's look at them. Raises PeerRejected with one of the
        reasons at the top of this module.
        """
        if not verified_chain:
            raise PeerRejected(PEER_UNTRUSTED, "peer has no verified certificate chain, enrol it in the mesh")
        spiffe_id = spiffe_id_of(verified_chain[0])
        _require_valid_at(verified_chain, spiffe_id, now)
        bundle = self.bundles.get(spiffe_id.trust_domain)
        if bundle is None:
            known = ", ".join(sorted(str(trust_domain) for trust_domain in self.bundles)) or "none"
            raise PeerRejected(
                PEER_UNTRUSTED, f"{spiffe_id} is of a trust domain without trust bundle, known are: {known}"
            )
        if verified_chain[-1] not in bundle.roots:
            raise PeerRejected(
                PEER_UNTRUSTED,
                f"{spiffe_id} is vouched for by {quoted(verified_chain[-1].subject.rfc4514_string())}, "
                f"which is no root of {spiffe_id.trust_domain}",
            )
        return spiffe_id


def spiffe_id_of(leaf: x509.Certificate) -> SpiffeId:
    """Return the identity that a leaf certificate carries, if it has the form of an SVID.

    That is: exactly one URI SAN, a valid SPIFFE ID; not a certificate authority; key usage digitalSignature without
    keyCertSign and cRLSign; extended key usage, if present, both serverAuth and clientAuth. Signature and times are
    not looked at. Raises PeerRejected("peer_identity_invalid"), saying which rule was broken.
    """
    try:
        extensions = leaf.extensions
    except _UNREADABLE:
        raise _invalid("has extensions that cannot be read") from None
    _require_leaf_usage(extensions)
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise _invalid("has no subject alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _invalid(f"has {len(uris)} URI names, exactly one is required")
    try:
        return SpiffeId.parse(uris[0])
    except InvalidInput as error:
        raise _invalid(f"has an unusable name: {error}") from None


def _require_leaf_usage(extensions: x509.Extensions) -> None:
    basic_constraints = _find(extensions, x509.BasicConstraints)
    if basic_constraints is not None and basic_constraints.ca:
        raise _invalid("is a certificate authority, which cannot be a workload")
    key_usage = _find(extensions, x509.KeyUsage)
    if key_usage is None or not key_usage.digital_signature:
        raise _invalid("lacks the key usage digitalSignature")
    if key_usage.key_cert_sign or key_usage.crl_sign:
        raise _invalid("has the key usage keyCertSign or cRLSign, which only an authority may have")
    extended = _find(extensions, x509.ExtendedKeyUsage)
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    if extended is not None and not both <= set(extended):
        raise _invalid("has an extended key usage without both serverAuth and clientAuth")


def _require_valid_at(chain: tuple[x509.Certificate, ...], spiffe_id: SpiffeId, now: datetime) -> None:
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


def _subject(certificate: x509.Certificate, chain: tuple[x509.Certificate, ...], spiffe_id: SpiffeId) -> str:
    return str(spiffe_id) if certificate is chain[0] else quoted(certificate.subject.rfc4514_string())


def _is_root(certificate: x509.Certificate) -> bool:
    try:
        constraints = _find(certificate.extensions, x509.BasicConstraints)
        self_issued = certificate.subject == certificate.issuer
    except _UNREADABLE:
        return False
    return self_issued and constraints is not None and constraints.ca


def _find(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    return next((extension.value for extension in extensions if isinstance(extension.value, kind)), None)


def _invalid(what: str) -> PeerRejected:
    return PeerRejected(PEER_IDENTITY_INVALID, f"peer certificate {what}")
