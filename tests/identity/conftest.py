"""One authority, and a forger that has its signing key: hostile certificates differ from a good one in one point."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from interceptor.identity.authority import Authority
from interceptor.identity.certificates import _key_usage
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain


class Forger:
    """Signs whatever it is asked for with the intermediate key of an authority."""

    def __init__(self, authority: Authority, now: datetime) -> None:
        self.authority = authority
        self.now = now
        self.good_name = f"spiffe://{authority.trust_domain}/ns/default/sa/web"

    def leaf(
        self,
        names: Sequence[str] | None = None,
        *,
        san: x509.ExtensionType | None = None,
        without_san: bool = False,
        ca: bool | None = False,
        key_usage: x509.KeyUsage | None = _key_usage(authority=False),  # noqa: B008 -- immutable
        usages: Sequence[x509.ObjectIdentifier] | None = (
            ExtendedKeyUsageOID.SERVER_AUTH,
            ExtendedKeyUsageOID.CLIENT_AUTH,
        ),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.authority.intermediate.subject)
            .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or self.now - timedelta(minutes=1))
            .not_valid_after(not_after or self.now + timedelta(hours=1))
        )
        if not without_san:
            uris = [x509.UniformResourceIdentifier(name) for name in names or [self.good_name]]
            builder = builder.add_extension(san or x509.SubjectAlternativeName(uris), critical=True)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if key_usage is not None:
            builder = builder.add_extension(key_usage, critical=True)
        if usages is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return builder.sign(self.authority.intermediate_key, hashes.SHA256())

    def chain(self, leaf: x509.Certificate) -> tuple[x509.Certificate, ...]:
        """The chain as OpenSSL would hand it up after verification."""
        return (leaf, self.authority.intermediate, self.authority.root)


@pytest.fixture(scope="session")
def now() -> datetime:
    return datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture(scope="session")
def authority(now: datetime) -> Authority:
    return Authority.create(TrustDomain("cluster.local"), now)


@pytest.fixture(scope="session")
def foreign_authority(now: datetime) -> Authority:
    return Authority.create(TrustDomain("other.example"), now)


@pytest.fixture(scope="session")
def forger(authority: Authority, now: datetime) -> Forger:
    return Forger(authority, now)


@pytest.fixture(scope="session")
def web() -> SpiffeId:
    return SpiffeId(TrustDomain("cluster.local"), "default", "web")
