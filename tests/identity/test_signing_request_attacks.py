"""What a hostile node may put into a signing request: each is refused, and the message says what it was."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ObjectIdentifier

from interceptor.errors import AuthorityError
from interceptor.identity.node_id import AuthorityId, NodeId
from interceptor.identity.signing_request import create_private_key, create_signing_request

WEB = "spiffe://cluster.local/ns/default/sa/web"
KEY = create_private_key()


def request(*names, key=KEY, extra=()):
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    if names:
        uris = [x509.UniformResourceIdentifier(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=True)
    for extension in extra:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


def with_a_bad_signature():
    der = bytearray(request(WEB).public_bytes(Encoding.DER))
    der[-1] ^= 1
    return x509.load_der_x509_csr(bytes(der))


def of_a_megabyte():
    blob = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(1_000_000))
    return request("spiffe://cluster.local/ns/default/sa/web2", extra=[blob])


def with_unused_bits_in_the_signature():
    while True:  # a signature that ends with a zero bit, so that one bit less is the same number
        good = request(WEB)
        if good.signature[-1] % 2 == 0:
            break
    der = bytearray(good.public_bytes(Encoding.DER))
    der[-len(good.signature) - 1] = 1
    return x509.load_der_x509_csr(bytes(der))


ATTACKS = {
    "two names": (lambda: request(WEB, "spiffe://cluster.local/ns/bank/sa/db"), "(2 in all)"),
    "the same name twice": (lambda: request(WEB, WEB), "(2 in all)"),
    "no name": (request, "it asks for no name (0 in all)"),
    "NUL": (lambda: request(f"{WEB}\x00.evil"), r"web\x00.evil'"),
    "newline": (lambda: request(f"{WEB}\n"), r"web\n'"),
    "another trust domain": (
        lambda: request(WEB.replace("cluster.local", "evil.example")),
        "'spiffe://evil.example",
    ),
    "another workload": (lambda: request(WEB.replace("web", "db")), "sa/db'"),
    "path traversal": (lambda: request("spiffe://cluster.local/ns/default/../bank/sa/db"), "/../bank"),
    "wildcard": (lambda: request("spiffe://cluster.local/ns/*/sa/*"), "ns/*/sa/*'"),
    "upper case": (lambda: request(WEB.upper()), "'SPIFFE://CLUSTER.LOCAL"),
    "empty part": (lambda: request("spiffe://cluster.local/ns//sa/web"), "ns//sa"),
    "the node": (lambda: request("spiffe://cluster.local/node/a"), "node/a'"),
    "the authority": (lambda: request("spiffe://cluster.local/authority"), "local/authority'"),
    "RSA of 1024 bits": (
        lambda: request(WEB, key=rsa.generate_private_key(65537, 1024)),
        "its key is not ECDSA P-256",
    ),
    "another curve": (lambda: request(WEB, key=ec.generate_private_key(ec.SECP521R1())), "not ECDSA P-256"),
    "bad signature": (with_a_bad_signature, "it is not signed by its own key"),
    "another encoding": (with_unused_bits_in_the_signature, "it is not signed by its own key"),
    "a megabyte of extensions": (of_a_megabyte, "sa/web2'"),
    "CA:TRUE": (
        lambda: request(WEB, extra=[x509.BasicConstraints(ca=True, path_length=None)]),
        "it asks to be a certificate authority",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_signing_request_gets_no_certificate_and_a_message_of_its_own(attack, authority, web, now):
    make, why = ATTACKS[attack]
    with pytest.raises(AuthorityError) as caught:
        authority.sign(make(), web, timedelta(hours=1), now)
    message = str(caught.value)
    assert why in message
    assert message.isprintable()
    assert len(message) < 500


def test_certificate_holds_nothing_that_the_request_asked_for(authority, web, now):
    wanted = [
        x509.KeyUsage(True, True, True, True, True, True, True, False, False),
        x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(1_000_000)),
    ]
    leaf, _ = authority.sign(request(WEB, extra=wanted), web, timedelta(hours=1), now)
    plain, _ = authority.sign(create_signing_request(web, KEY), web, timedelta(hours=1), now)
    assert [each.value for each in leaf.extensions] == [each.value for each in plain.extensions]
    assert len(leaf.public_bytes(Encoding.DER)) < 1000


@pytest.mark.parametrize("make", [lambda domain: NodeId(domain, "a"), AuthorityId])
def test_infrastructure_is_certified_for_its_own_request_only(make, authority, now):
    identity = make(authority.trust_domain)
    assert authority.sign(create_signing_request(identity, KEY), identity, timedelta(hours=1), now)
    with pytest.raises(AuthorityError, match="exactly that id is required"):
        authority.sign(request(WEB), identity, timedelta(hours=1), now)
