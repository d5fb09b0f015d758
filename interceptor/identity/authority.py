"""The certificate authority of one trust domain: a root, an intermediate that signs, and what it may sign.

The caller hands in a signing request and gets a chain back, so a node's key never travels and a remote authority can
stand in for this one. The root key is needed only to renew the intermediate and can be kept elsewhere.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NoReturn, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from interceptor.errors import AuthorityError, utc
from interceptor.identity.certificates import intermediate_certificate, leaf_certificate, root_certificate
from interceptor.identity.node_id import Identity
from interceptor.identity.signing_request import check_signing_request, create_private_key
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.identity.trust_bundle import TrustBundle

ROOT_LIFETIME: Final = timedelta(days=3650)
INTERMEDIATE_LIFETIME: Final = timedelta(days=365)
MIN_LEAF_LIFETIME: Final = timedelta(seconds=1)  # X.509 times have no fractions
MAX_LEAF_LIFETIME: Final = timedelta(hours=24)  # a stolen key is worthless tomorrow, without revocation lists


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Authority:
    """An immutable authority; renewal makes a new one. Its keys are in no repr and can be neither pickled nor copied.

    `trust_bundle` may hold further roots beside the one that signed the intermediate, while a root is being replaced.
    """

    trust_bundle: TrustBundle
    intermediate: x509.Certificate
    intermediate_key: ec.EllipticCurvePrivateKey
    root_key: ec.EllipticCurvePrivateKey | None

    def __post_init__(self) -> None:
        """Raise AuthorityError unless keys and certificates belong together."""
        if self.intermediate.public_key() != self.intermediate_key.public_key():
            raise AuthorityError("intermediate key does not match the intermediate certificate")
        root = self.root
        if self.root_key is not None and root.public_key() != self.root_key.public_key():
            raise AuthorityError("root key does not match the root certificate")

    @classmethod
    def create(cls, trust_domain: TrustDomain, now: datetime) -> Self:
        """Make new keys, a root for ten years and an intermediate for one."""
        root_key, intermediate_key = create_private_key(), create_private_key()
        root = root_certificate(trust_domain, root_key, now, ROOT_LIFETIME)
        intermediate = intermediate_certificate(
            trust_domain, intermediate_key.public_key(), (root, root_key), now, INTERMEDIATE_LIFETIME
        )
        return cls(TrustBundle(trust_domain, (root,)), intermediate, intermediate_key, root_key)

    @property
    def trust_domain(self) -> TrustDomain:
        return self.trust_bundle.trust_domain

    @property
    def root(self) -> x509.Certificate:
        """The root that signed the intermediate; raises AuthorityError if the bundle holds none that did."""
        for root in self.trust_bundle.roots:
            try:
                self.intermediate.verify_directly_issued_by(root)
            except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
                continue
            return root
        raise AuthorityError("intermediate certificate is not signed by the root certificate")

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """The intermediates that every leaf is sent with; roots are not among them."""
        return (self.intermediate,)

    @property
    def not_after(self) -> datetime:
        """When the intermediate ends, and with it every certificate that it signed."""
        return self.intermediate.not_valid_after_utc

    def sign(
        self,
        request: x509.CertificateSigningRequest,
        spiffe_id: Identity,
        lifetime: timedelta,
        now: datetime,
    ) -> tuple[x509.Certificate, ...]:
        """Issue a certificate for `spiffe_id`, which the caller has attested; return leaf and intermediates.

        The leaf is valid from 60 s ago until `now + lifetime` (1 s to 24 h), or until the intermediate ends. Raises
        AuthorityError for another trust domain, a lifetime out of range, an authority that is itself not valid at
        `now`, and a request that is not exactly for this id (see check_signing_request).
        """
        if spiffe_id.trust_domain != self.trust_domain:
            raise AuthorityError(f"authority of {self.trust_domain} cannot issue for {spiffe_id}")
        if not MIN_LEAF_LIFETIME <= lifetime <= MAX_LEAF_LIFETIME:
            seconds = lifetime.total_seconds()
            raise AuthorityError(f"certificate lifetime of {seconds:g} s refused, choose 1 s to 24 h")
        if not self.intermediate.not_valid_before_utc <= now < self.not_after:
            raise AuthorityError(
                f"authority of {self.trust_domain} is valid from {utc(self.intermediate.not_valid_before_utc)} "
                f"to {utc(self.not_after)}, now is {utc(now)}: check the clock, or renew the intermediate"
            )
        public_key = check_signing_request(request, spiffe_id)
        issuer = (self.intermediate, self.intermediate_key)
        return (leaf_certificate(spiffe_id, public_key, issuer, now, lifetime), *self.chain)

    def needs_intermediate(self, now: datetime) -> bool:
        """Say whether the intermediate is past half its life, or from the future because a clock was wrong."""
        not_before = self.intermediate.not_valid_before_utc
        return not not_before <= now < not_before + (self.not_after - not_before) / 2

    def with_renewed_intermediate(self, now: datetime) -> Self:
        """Return an authority with a new intermediate and key; leaves of the old one stay valid under the same root.

        Raises AuthorityError without the root key, or when the root itself is not valid at `now`.
        """
        if self.root_key is None:
            raise AuthorityError(
                "intermediate cannot be renewed without the root key, put it back for the renewal"
            )
        root = self.root
        if not root.not_valid_before_utc <= now < root.not_valid_after_utc:
            raise AuthorityError(
                f"root certificate is valid from {utc(root.not_valid_before_utc)} to "
                f"{utc(root.not_valid_after_utc)}, now is {utc(now)}: check the clock, or create a new authority"
            )
        key = create_private_key()
        intermediate = intermediate_certificate(
            self.trust_domain, key.public_key(), (root, self.root_key), now, INTERMEDIATE_LIFETIME
        )
        return type(self)(self.trust_bundle, intermediate, key, self.root_key)

    def __repr__(self) -> str:
        return f"Authority({self.trust_domain}, not after {self.not_after.isoformat()})"

    def __reduce__(self) -> NoReturn:
        """Refuse pickle and copy: the keys have one owner."""
        raise TypeError("an Authority holds private keys and cannot be pickled or copied")
