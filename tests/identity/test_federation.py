"""Roots of another trust domain: each thing that may be wrong with a file of them has its own message."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from interceptor.errors import InvalidInput
from interceptor.identity.authority import Authority
from interceptor.identity.federation import read_foreign_roots
from interceptor.identity.spiffe_id import TrustDomain

OTHER = TrustDomain("other.example")
THIRD = TrustDomain("third.example")
DAY = timedelta(days=1)
NAME = x509.Name.from_rfc4514_string("CN=somebody else's root")
SIGNS = {"digital_signature": False, "content_commitment": False, "key_encipherment": False, "data_encipherment": False,
         "key_agreement": False, "key_cert_sign": True, "crl_sign": True, "encipher_only": False, "decipher_only": False}  # fmt: skip


def root(now, *, ca=True, begins=-DAY, ends=365 * DAY, uris=(), usage=SIGNS, signer=None, more=()):
    """A root that another program made, as it is told to."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if usage is not None:
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer or key, hashes.SHA256())


def pem(*certificates):
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def refusal(data, given, now):
    with pytest.raises(InvalidInput) as caught:
        read_foreign_roots(data, given, now)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_roots_that_name_their_domain_need_not_be_told_it(now):
    first, second = (Authority.create(OTHER, now).root for _ in range(2))
    for given in (None, OTHER):
        bundle = read_foreign_roots(pem(first, second), given, now)
        assert (bundle.trust_domain, bundle.roots) == (OTHER, (first, second))


@pytest.mark.parametrize("usage", [SIGNS, None])
def test_root_that_names_nobody_is_whose_the_operator_says(now, usage):
    nobodys = root(now, usage=usage)
    assert read_foreign_roots(pem(nobodys), OTHER, now).trust_domain == OTHER
    assert "no certificate says whose root it is: give --trust-domain" in refusal(pem(nobodys), None, now)
    mixed = pem(Authority.create(OTHER, now).root, nobodys)
    assert "certificate 2 does not say whose root it is" in refusal(mixed, None, now)
    assert read_foreign_roots(mixed, OTHER, now).roots[1] == nobodys


def test_root_of_another_trust_domain_than_the_operator_says_is_refused(now):
    third = Authority.create(THIRD, now).root
    assert "certificate 1 is a root of third.example, not of other.example" in refusal(pem(third), OTHER, now)
    other = Authority.create(OTHER, now).root
    assert "certificate 2 is a root of third.example, not of other.example" in refusal(
        pem(other, third), None, now
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ca": False}, "certificate 1 is no certificate authority (CA:FALSE)"),
        ({"ca": None}, "certificate 1 is no certificate authority (CA:FALSE)"),
        ({"usage": {**SIGNS, "key_cert_sign": False}}, "certificate 1 may not sign certificates"),
        ({"signer": ec.generate_private_key(ec.SECP256R1())}, "certificate 1 is not signed by itself"),
        ({"begins": -9 * DAY, "ends": -DAY}, "certificate 1 expired at 20"),
        ({"begins": DAY}, "certificate 1 is not valid before 20"),
        ({"uris": ("spiffe://a.example", "spiffe://b.example")}, "expected one trust domain"),
        ({"uris": ("https://other.example",)}, "names 'https://other.example', expected one trust domain"),
        ({"uris": ("spiffe://Other",)}, "certificate 1: trust domain 'Other'"),
        ({"uris": ("spiffe://other.example/ns/a/sa/b",)}, "certificate 1: trust domain"),
        (
            {"more": [x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"junk")]},
            "certificate 1 has extensions that cannot be read",
        ),
    ],
)
def test_certificate_that_is_no_root_is_refused_with_what_is_wrong(now, changes, why):
    assert why in refusal(pem(root(now, **changes)), OTHER, now)


def test_root_that_is_there_twice_is_refused(now):
    one, two = root(now), root(now)
    assert "certificate 3 is the same as certificate 1" in refusal(pem(one, two, one), OTHER, now)


@pytest.mark.parametrize(
    "data", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_file_that_holds_no_certificates_is_refused(now, data):
    assert refusal(data, OTHER, now) == "it is not a list of PEM certificates"
