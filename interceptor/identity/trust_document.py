"""What the authority tells every node to believe: trust bundles, other names of its trust domain, revocations.

It travels on a channel of its own, so it reaches a node also when no certificate is due.
"""

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from cryptography.hazmat.primitives.serialization import Encoding

from interceptor.errors import InvalidInput
from interceptor.identity.certificates import fingerprint
from interceptor.identity.revocation import MAX_REVOCATIONS, Revocation, RevocationList
from interceptor.identity.spiffe_id import MAX_TRUST_DOMAIN_BYTES, TrustDomain
from interceptor.identity.strict_json import Fields, Json, canonical, parse
from interceptor.identity.trust_bundle import TrustBundle, TrustBundles

MAX_TRUST_DOCUMENT_BYTES: Final = 4 * 1024 * 1024  # the longest list of ordinary revocations takes 2 MiB
MAX_BUNDLES: Final = 100
MAX_ROOTS: Final = 16  # of one trust domain
MAX_ALIASES: Final = 16
_MAX_CERTIFICATE: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class TrustDocument:
    """One state of what is to be believed in `trust_domain`; two that say the same are equal, bytes and hashes too."""

    trust_domain: TrustDomain
    bundles: tuple[TrustBundle, ...]
    aliases: tuple[TrustDomain, ...]
    revoked: RevocationList

    def __post_init__(self) -> None:
        """Sort; raise InvalidInput without a bundle of the own domain, for two of one domain, and for too much."""
        domains = {bundle.trust_domain for bundle in self.bundles}
        if self.trust_domain not in domains or len(domains) != len(self.bundles):
            raise InvalidInput(
                f"trust document of {self.trust_domain} needs one bundle of it, and one of a domain"
            )
        if self.trust_domain in self.aliases or len(set(self.aliases)) != len(self.aliases):
            raise InvalidInput(
                f"trust document of {self.trust_domain} has an alias twice, or itself as alias"
            )
        roots = max(len(bundle.roots) for bundle in self.bundles)
        if len(self.bundles) > MAX_BUNDLES or roots > MAX_ROOTS or len(self.aliases) > MAX_ALIASES:
            raise InvalidInput(
                f"trust document of {self.trust_domain} has more than {MAX_BUNDLES} bundles, {MAX_ROOTS} roots of one "
                f"domain or {MAX_ALIASES} aliases"
            )
        bundles = sorted(
            (_sorted(bundle) for bundle in self.bundles), key=lambda bundle: bundle.trust_domain.name
        )
        object.__setattr__(self, "bundles", tuple(bundles))
        object.__setattr__(self, "aliases", tuple(sorted(self.aliases, key=str)))

    def to_json(self) -> bytes:
        """The document as it travels."""
        revoked = [entry.to_document() for entry in self.revoked.entries]
        return canonical({**self._believed(), "revoked": revoked})

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` made, from a source that need not be trusted with anything; raises InvalidInput."""
        return cls.from_document(parse("trust document", data, MAX_TRUST_DOCUMENT_BYTES))

    @classmethod
    def from_document(cls, value: object) -> Self:
        """The same from JSON that was parsed; raises InvalidInput."""
        fields = Fields("trust document", value, "aliases", "bundles", "revoked", "trust_domain")
        return cls(
            TrustDomain(fields.text("trust_domain", MAX_TRUST_DOMAIN_BYTES)),
            tuple(_read_bundle(bundle) for bundle in fields.array("bundles", MAX_BUNDLES)),
            tuple(TrustDomain(name) for name in fields.texts("aliases", MAX_ALIASES, MAX_TRUST_DOMAIN_BYTES)),
            RevocationList(
                tuple(Revocation.from_document(entry) for entry in fields.array("revoked", MAX_REVOCATIONS))
            ),
        )

    @property
    def bundle_hash(self) -> str:
        """What stands for bundles and aliases: a step of a rotation waits until every node has reported it."""
        return _hash(canonical(self._believed()))

    @property
    def document_hash(self) -> str:
        """What stands for the whole document, revocations too."""
        return _hash(self.to_json())

    def trust_bundles(self) -> TrustBundles:
        """The document in the form in which peers are verified."""
        bundles = {bundle.trust_domain: bundle for bundle in self.bundles}
        return TrustBundles(bundles, self.aliases, self.trust_domain, self.revoked)

    def _believed(self) -> Json:
        return {
            "aliases": [alias.name for alias in self.aliases],
            "bundles": [
                {
                    "roots": [root.public_bytes(Encoding.PEM).decode("ascii") for root in bundle.roots],
                    "trust_domain": bundle.trust_domain.name,
                }
                for bundle in self.bundles
            ],
            "trust_domain": self.trust_domain.name,
        }


def _sorted(bundle: TrustBundle) -> TrustBundle:
    return TrustBundle(bundle.trust_domain, tuple(sorted(bundle.roots, key=fingerprint)))


def _read_bundle(value: object) -> TrustBundle:
    fields = Fields("trust bundle", value, "roots", "trust_domain")
    trust_domain = TrustDomain(fields.text("trust_domain", MAX_TRUST_DOMAIN_BYTES))
    roots = fields.texts("roots", MAX_ROOTS, _MAX_CERTIFICATE)
    return TrustBundle.from_pem(trust_domain, "".join(roots).encode("ascii", "replace"))


def _hash(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
