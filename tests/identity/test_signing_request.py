"""Requests: ours pass, and whatever else arrives is refused with one line."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from interceptor.errors import AuthorityError
from interceptor.identity.signing_request import (
    check_signing_request,
    create_private_key,
    create_signing_request,
)

KEY = create_private_key()


def forged(extension, key=KEY, subject=()):
    builder = x509.CertificateSigningRequestBuilder(x509.Name(subject))
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def named(*names):
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(name)) for name in names])


def test_private_keys_are_p256_and_new_each_time():
    key = create_private_key()
    assert isinstance(key.curve, ec.SECP256R1)
    assert key.private_numbers() != create_private_key().private_numbers()


def test_signing_request_has_empty_subject_and_the_id_as_its_only_critical_name(web):
    request = create_signing_request(web, KEY)
    assert not list(request.subject)
    assert request.is_signature_valid
    (extension,) = request.extensions
    assert extension.critical
    assert extension.value == named(web)


def test_check_of_our_own_request_gives_the_key(web):
    assert check_signing_request(create_signing_request(web, KEY), web) == KEY.public_key()


def test_check_ignores_the_subject_that_a_request_asks_for(web):
    request = forged(named(web), subject=[x509.NameAttribute(NameOID.COMMON_NAME, "admin")])
    assert check_signing_request(request, web) == KEY.public_key()


@pytest.mark.parametrize(
    ("extension", "key", "why"),
    [
        (None, KEY, "it asks for no name (0 in all)"),
        (
            named("spiffe://cluster.local/ns/default/sa/admin"),
            KEY,
            "'spiffe://cluster.local/ns/default/sa/admin'",
        ),
        (named("spiffe://cluster.local/ns/default/sa/web", "spiffe://x/ns/a/sa/b"), KEY, "(2 in all)"),
        (named("spiffe://cluster.local/ns/default/sa/web\x00"), KEY, "web\\x00'"),
        (x509.SubjectAlternativeName([x509.DNSName("web")]), KEY, "it asks for 'web'"),
        (
            x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\xff"),
            KEY,
            "it cannot be read",
        ),
        (
            named("spiffe://cluster.local/ns/default/sa/web"),
            ec.generate_private_key(ec.SECP384R1()),
            "not ECDSA P-256",
        ),
        (
            named("spiffe://cluster.local/ns/default/sa/web"),
            ed25519.Ed25519PrivateKey.generate(),
            "not ECDSA P-256",
        ),
        (
            named("spiffe://cluster.local/ns/default/sa/web"),
            rsa.generate_private_key(65537, 2048),
            "not ECDSA P-256",
        ),
    ],
)
def test_check_of_another_request_is_refused(web, extension, key, why):
    with pytest.raises(AuthorityError) as caught:
        check_signing_request(forged(extension, key), web)
    message = str(caught.value)
    assert message.startswith(f"signing request for {web} refused: ")
    assert why in message
    assert message.isprintable()


@pytest.mark.parametrize("authority", [True, False])
def test_check_of_a_request_to_be_an_authority_is_refused(web, authority):
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(named(web), critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    request = builder.sign(KEY, hashes.SHA256())
    if not authority:
        assert check_signing_request(request, web) == KEY.public_key()
        return
    with pytest.raises(AuthorityError, match=r"refused: it asks to be a certificate authority"):
        check_signing_request(request, web)


def test_check_of_a_request_signed_by_another_key_is_refused(web):
    # Somebody else's public key in a request that we signed ourselves: no possession is proven.
    theirs, ours = (create_signing_request(web, key) for key in (create_private_key(), KEY))
    der = ours.public_bytes(Encoding.DER).replace(point(ours), point(theirs))
    with pytest.raises(AuthorityError, match="not signed by its own key"):
        check_signing_request(x509.load_der_x509_csr(der), web)


def test_check_of_a_request_with_a_key_of_an_unknown_curve_is_refused(web):
    der = create_signing_request(web, KEY).public_bytes(Encoding.DER)
    p256, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f")
    with pytest.raises(AuthorityError, match="cannot be read"):
        check_signing_request(x509.load_der_x509_csr(der.replace(p256, unknown)), web)


@pytest.fixture(scope="session")
def good_der(web):
    return create_signing_request(web, KEY).public_bytes(Encoding.DER)


@settings(deadline=None)
@given(position=st.integers(0, 999), change=st.integers(1, 255))
def test_check_of_a_damaged_request_is_refused(position, change, good_der, web):
    der = bytearray(good_der)
    der[position % len(der)] ^= change
    try:
        request = x509.load_der_x509_csr(bytes(der))
    except (ValueError, x509.InvalidVersion):
        return  # it does not get as far as us
    with pytest.raises(AuthorityError):
        check_signing_request(request, web)


def point(request):
    numbers = request.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
