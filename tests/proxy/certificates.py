"""Certificates for both ends of a handshake: good ones, and those that differ from a good one in one point."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from OpenSSL.crypto import X509

from interceptor.identity.authority import Authority
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.svid import X509Svid
from interceptor.identity.trust_bundle import TrustBundles
from interceptor.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

DOMAIN = TrustDomain("cluster.local")


def now() -> datetime:
    return datetime.fromtimestamp(datetime.now(UTC).timestamp(), UTC)


@cache
def authority() -> Authority:
    """The authority of every test here: making keys takes longer than most tests."""
    return Authority.create(DOMAIN, now())


@cache
def foreign_authority() -> Authority:
    """Another authority of the same trust domain, which nobody here trusts."""
    return Authority.create(DOMAIN, now())


def bundles(*extra: Authority) -> TrustBundles:
    return TrustBundles({one.trust_domain: one.trust_bundle for one in (authority(), *extra)})


def identity(service_account: str, domain: TrustDomain = DOMAIN) -> SpiffeId:
    return SpiffeId(domain, "default", service_account)


@cache
def svid(service_account: str) -> X509Svid:
    """A good one, from our authority."""
    return new_svid(identity(service_account), authority())


def new_svid(spiffe_id: SpiffeId, issuer: Authority) -> X509Svid:
    key = create_private_key()
    chain = issuer.sign(create_signing_request(spiffe_id, key), spiffe_id, timedelta(hours=1), now())
    return X509Svid(spiffe_id, chain, key, now())


@dataclass(frozen=True)
class Proof:
    """What a peer shows in a handshake: a chain and the key of its leaf, whether they are an SVID or not."""

    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def of(cls, good: X509Svid) -> Proof:
        return cls(good.chain, good.private_key)


def forge(
    uris: Sequence[str] = ("spiffe://cluster.local/ns/default/sa/a",),
    *,
    begins: timedelta = timedelta(minutes=-1),
    ends: timedelta = timedelta(hours=1),
    is_authority: bool = False,
    usages: Sequence[x509.ObjectIdentifier] = (
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ),
    self_signed: bool = False,
) -> Proof:
    """A leaf that our own intermediate signed, or it itself, with `uris` as its names."""
    issuer, key = authority(), create_private_key()
    itself = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "itself")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(itself if self_signed else x509.Name([]))
        .issuer_name(itself if self_signed else issuer.intermediate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() + begins)
        .not_valid_after(now() + ends)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=True)
    if self_signed:
        return Proof((builder.sign(key, hashes.SHA256()),), key)
    leaf = builder.sign(issuer.intermediate_key, hashes.SHA256())
    return Proof((leaf, issuer.intermediate), key)


def tls_context(
    proof: Proof | None,
    *,
    method: int = SSL.TLS_METHOD,
    protocols: Sequence[bytes] = (b"http/1.1",),
    version: int = SSL.TLS1_3_VERSION,
) -> SSL.Context:
    """A context of a peer that is not ours: it shows `proof`, verifies our side, and may keep sessions."""
    context = SSL.Context(method)
    context.clear_mode(SSL._lib.SSL_MODE_ENABLE_PARTIAL_WRITE)  # TlsStream counts on it
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    if protocols:
        context.set_alpn_protos(list(protocols))
        context.set_alpn_select_callback(lambda _, offered: offered[0])
    store = context.get_cert_store()
    assert store is not None
    for root in bundles().roots:
        store.add_cert(X509.from_cryptography(root))
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    if proof is not None:
        context.use_certificate(proof.chain[0])
        for intermediate in proof.chain[1:]:
            context.add_extra_chain_cert(intermediate)
        context.use_privatekey(proof.key)
    return context


def hostile(service_account: str) -> dict[str, tuple[Proof, Reason, str]]:
    """What a peer may show that proves nothing, and how it is told: each differs from a good proof in one point."""
    name, hour = f"spiffe://cluster.local/ns/default/sa/{service_account}", timedelta(hours=1)
    foreign = Proof.of(new_svid(identity(service_account), foreign_authority()))
    invalid = Reason.PEER_IDENTITY_INVALID
    return {
        "self-signed": (
            forge([name], self_signed=True),
            Reason.PEER_UNTRUSTED,
            "the peer's certificate is not trusted: it is signed by itself",
        ),
        "foreign authority": (foreign, Reason.PEER_UNTRUSTED, "its issuer is not in our trust bundle"),
        "foreign domain": (
            forge(["spiffe://other.example/ns/default/sa/a"]),
            Reason.PEER_UNTRUSTED,
            "its name is not one that its issuer may give",
        ),
        "expired": (
            forge([name], begins=-2 * hour, ends=-hour),
            Reason.PEER_CERTIFICATE_EXPIRED,
            "the peer's certificate expired at 2",
        ),
        "not yet valid": (
            forge([name], begins=hour, ends=2 * hour),
            Reason.PEER_CERTIFICATE_NOT_YET_VALID,
            "is not valid before 2",
        ),
        "two names": (forge([name, f"{name}2"]), invalid, "has 2 URI names"),
        "no name": (forge([]), invalid, "has no subject alternative name"),
        "not SPIFFE": (forge(["https://cluster.local/ns/default/sa/a"]), invalid, "has an unusable name"),
        "control character": (forge([f"{name}\0x"]), invalid, "has an unusable name"),
        "authority": (forge([name], is_authority=True), invalid, "is a certificate authority"),
        "node's": (
            forge(["spiffe://cluster.local/node/b"]),
            invalid,
            "is a node's identity, not a workload's",
        ),
        "authority's": (
            forge(["spiffe://cluster.local/authority"]),
            invalid,
            "is the authority's identity, not a workload's",
        ),
    }


HOSTILE = tuple(hostile("x"))
