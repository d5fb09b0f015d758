"""A TLS client that breaks the rules: certificates that no honest authority issues, and bytes that no proxy sends."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL

from interceptor.authority_store import load_or_create
from interceptor.identity.spiffe_id import TrustDomain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.identity.authority import Authority
    from tests.harness.namespace import Namespace
    from tests.harness.node import Node

TUNNEL_PORT = 15008
TRUST_DOMAIN = TrustDomain("cluster.local")
HONEST = "spiffe://cluster.local/ns/default/sa/client"


@dataclass(frozen=True)
class Credential:
    """A key with a chain, leaf first; an empty chain is no certificate at all."""

    key: ec.EllipticCurvePrivateKey | None
    chain: tuple[x509.Certificate, ...]


NOTHING = Credential(None, ())


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def authority_of(node: Node) -> Authority:
    """The node's own authority, keys and all."""
    with contextlib.closing(load_or_create(node.state_dir / "authority", TRUST_DOMAIN, now())) as store:
        return store.issuer(now())


def credential(
    authority: Authority,
    *uris: str,
    dns: str | None = None,
    begins: dt.timedelta = dt.timedelta(minutes=-1),
    ends: dt.timedelta = dt.timedelta(hours=1),
    ca: bool = False,
    usages: Sequence[x509.ObjectIdentifier] = (
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ),
) -> Credential:
    """A certificate that the authority's key has really signed, whatever it says."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.intermediate
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(dns)] if dns else []
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() + begins)
        .not_valid_after(now() + ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.intermediate_key.public_key()),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=ca,
                crl_sign=ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return Credential(key, (builder.sign(authority.intermediate_key, hashes.SHA256()), issuer))


def self_signed(uri: str) -> Credential:
    """A certificate that nobody but its own key vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    itself = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "itself")])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(itself)
        .issuer_name(itself)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - dt.timedelta(minutes=1))
        .not_valid_after(now() + dt.timedelta(hours=1))
        .add_extension(names, critical=False)
    )
    return Credential(key, (builder.sign(key, hashes.SHA256()),))


@contextlib.contextmanager
def tunnel(
    source: Namespace,
    address: str,
    shown: Credential,
    *,
    protocols: Sequence[bytes] = (b"http/1.1",),
    version: int = SSL.TLS1_3_VERSION,
) -> Iterator[TlsClient]:
    """A finished handshake with the tunnel port at `address`; what the server shows is not checked.  SSL.Error if none."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.set_verify(SSL.VERIFY_NONE)
    if protocols:
        context.set_alpn_protos(list(protocols))
    if shown.key is not None:
        context.use_certificate(shown.chain[0])
        for certificate in shown.chain[1:]:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(shown.key)
    with source.connect((address, TUNNEL_PORT)) as sock:
        sock.settimeout(None)  # pyOpenSSL knows no timeouts; the kernel does
        timeout = b"\x0f\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        connection = SSL.Connection(context, sock)
        connection.set_connect_state()
        connection.do_handshake()
        yield TlsClient(connection)


class TlsClient:
    """The client's end of a tunnel."""

    def __init__(self, connection: SSL.Connection) -> None:
        self.connection = connection

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def receive(self) -> bytes:
        """Until the server ends or refuses, with or without an alert."""
        received = b""
        with contextlib.suppress(SSL.Error, ConnectionError):
            while data := self.connection.recv(65536):
                received += data
        return received

    def receive_some(self) -> bytes:
        return self.connection.recv(65536)


def connect_request(target: str, *headers: str) -> bytes:
    return "\r\n".join((f"CONNECT {target} HTTP/1.1", f"Host: {target}", *headers, "", "")).encode()
