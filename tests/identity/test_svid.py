"""The SVID: consistent or refused."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from interceptor.errors import InvalidInput
from interceptor.identity.leaf_profile import shown_name
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.identity.svid import X509Svid

KEY = create_private_key()


@pytest.fixture(scope="session")
def chain(authority, web, now):
    return authority.sign(create_signing_request(web, KEY), web, timedelta(hours=1), now)


def test_svid_shows_its_leaf(chain, web, now):
    svid = X509Svid(web, chain, KEY, now)
    assert svid.leaf == chain[0]
    assert (svid.not_before, svid.not_after) == (now - timedelta(minutes=1), now + timedelta(hours=1))
    assert int(svid.serial_number, 16) == chain[0].serial_number
    assert repr(svid) == f"X509Svid({web}, serial {svid.serial_number}, not after 2026-03-04T06:06:07+00:00)"
    assert svid == X509Svid(web, chain, KEY, now)


def test_svid_without_certificate_is_refused(web, now):
    with pytest.raises(InvalidInput, match="has no certificate"):
        X509Svid(web, (), KEY, now)


def test_svid_with_another_key_is_refused(chain, web, now):
    with pytest.raises(InvalidInput, match="does not belong to its key"):
        X509Svid(web, chain, create_private_key(), now)


def test_svid_for_another_identity_is_refused(chain, web, now):
    with pytest.raises(InvalidInput, match=f"names {web}, request a new one"):
        X509Svid(SpiffeId(web.trust_domain, "default", "admin"), chain, KEY, now)


def test_svid_with_a_certificate_that_is_none_is_refused(authority, web, now):
    with pytest.raises(InvalidInput, match="is no SVID: peer certificate is a certificate authority"):
        X509Svid(web, authority.chain, KEY, now)


def test_svid_with_a_key_of_an_unknown_curve_is_refused(chain, web, now):
    p256, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d03017f")
    leaf = x509.load_der_x509_certificate(chain[0].public_bytes(Encoding.DER).replace(p256, unknown))
    with pytest.raises(InvalidInput, match="has an unusable key"):
        X509Svid(web, (leaf, *chain[1:]), KEY, now)


def test_certificate_is_called_by_its_only_uri_or_by_nothing(authority, web, now):
    key = create_private_key()
    (leaf, intermediate) = authority.sign(create_signing_request(web, key), web, timedelta(hours=1), now)
    assert shown_name(leaf) == str(web)
    assert shown_name(intermediate) is None
