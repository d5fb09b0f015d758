"""Signing requests and client certificates that no honest node makes, each wrong in one point."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from interceptor.identity.signing_request import create_private_key
from tests.authority_service.running import WEB, pem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from interceptor.identity.authority import Authority

NAME = str(WEB)
_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)


def csr(
    *uris: str,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    dns: str | None = None,
    more: Sequence[x509.ExtensionType] = (),
) -> str:
    """A signing request with these names, in PEM."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(dns)] if dns else []
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    return pem(builder.sign(key or create_private_key(), hashes.SHA256()))


def with_a_bad_signature() -> str:
    """The last byte of the signature is another one."""
    der = bytearray(x509.load_pem_x509_csr(csr(NAME).encode()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    return pem(x509.load_der_x509_csr(bytes(der)))


def of_another_key() -> str:
    """The key in it is not the one that signed it."""
    der = x509.load_pem_x509_csr(csr(NAME).encode()).public_bytes(Encoding.DER)
    point = x509.load_der_x509_csr(der).public_key().public_numbers()
    other = create_private_key().public_key().public_numbers()
    changed = der.replace(point.x.to_bytes(32, "big"), other.x.to_bytes(32, "big"))
    changed = changed.replace(point.y.to_bytes(32, "big"), other.y.to_bytes(32, "big"))
    return pem(x509.load_der_x509_csr(changed))


# What is in the request instead of exactly the name that was asked for.
REQUESTS: dict[str, Callable[[], str]] = {
    "two SANs": lambda: csr(NAME, f"{NAME}2"),
    "the same SAN twice": lambda: csr(NAME, NAME),
    "DNS name beside it": lambda: csr(NAME, dns="web.default"),
    "no SAN": csr,
    "NUL": lambda: csr(f"{NAME}\0"),
    "newline": lambda: csr(f"{NAME}\n"),
    "another trust domain": lambda: csr("spiffe://other.example/ns/default/sa/web"),
    "another workload": lambda: csr("spiffe://cluster.local/ns/default/sa/db"),
    "path traversal": lambda: csr("spiffe://cluster.local/ns/default/sa/../sa/web"),
    "wildcard": lambda: csr("spiffe://cluster.local/ns/default/sa/*"),
    "uppercase": lambda: csr("spiffe://cluster.local/ns/default/sa/WEB"),
    "empty part": lambda: csr("spiffe://cluster.local/ns//sa/web"),
    "RSA of 1024 bits": lambda: csr(NAME, key=rsa.generate_private_key(65537, 1024)),
    "RSA of 2048 bits": lambda: csr(NAME, key=rsa.generate_private_key(65537, 2048)),
    "P-384": lambda: csr(NAME, key=ec.generate_private_key(ec.SECP384R1())),
    "bad signature": with_a_bad_signature,
    "another key": of_another_key,
    "CA:TRUE": lambda: csr(NAME, more=[x509.BasicConstraints(ca=True, path_length=None)]),
    "not PEM": lambda: "hello",
    "no request but a key": lambda: "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n",
    "empty": lambda: "",
    "not ASCII": lambda: csr(NAME).replace("M", "\u216f", 1),
}


def with_extensions_of(size: int) -> str:
    """A request that is all right but for its size."""
    padding = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.55555.1"), bytes(size))
    return csr(NAME, more=[padding])


@dataclass(frozen=True)
class Shown:
    """A chain and its key, as a client shows them."""

    chain: tuple[x509.Certificate, ...]
    private_key: ec.EllipticCurvePrivateKey


def leaf(
    issuer: Authority,
    uri: str,
    *,
    begins: timedelta = -_MINUTE,
    ends: timedelta = _HOUR,
    usages: Sequence[ObjectIdentifier] = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    self_signed: bool = False,
) -> Shown:
    """A certificate that an authority really signed, whatever it says."""
    key = create_private_key()
    itself = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "itself")])
    now = issuer.intermediate.not_valid_before_utc + _MINUTE
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(itself if self_signed else x509.Name([]))
        .issuer_name(itself if self_signed else issuer.intermediate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(names, critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
    )
    signed = builder.sign(key if self_signed else issuer.intermediate_key, hashes.SHA256())
    return Shown((signed,) if self_signed else (signed, issuer.intermediate), key)
