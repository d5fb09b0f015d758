"""Who a chain says that it is, against a forger who holds a signing key."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from hypothesis import given, settings
from hypothesis import strategies as st

from interceptor.errors import InvalidInput, PeerRejected
from interceptor.identity import leaf_profile, trust_bundle
from interceptor.identity.authority import Authority
from interceptor.identity.certificates import _key_usage
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.trust_bundle import TrustBundle, TrustBundles, spiffe_id_of
from interceptor.policy.verdict import Reason

GOOD = "spiffe://cluster.local/ns/default/sa/web"
UNREADABLE_SAN = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\xff")
SIGNING_LEAF = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
REVOKING_LEAF = x509.KeyUsage(True, False, False, False, False, False, True, False, False)
ENCIPHERING_LEAF = x509.KeyUsage(False, False, True, False, False, False, False, False, False)


@pytest.fixture(scope="session")
def bundles(authority, foreign_authority):
    return TrustBundles({each.trust_domain: each.trust_bundle for each in (authority, foreign_authority)})


def rejection(bundles, chain, now):
    with pytest.raises(PeerRejected) as caught:
        bundles.identify(chain, now)
    assert str(caught.value).isprintable()
    return caught.value.reason, str(caught.value)


def test_reasons_are_those_of_policy():
    assert trust_bundle.PEER_UNTRUSTED == Reason.PEER_UNTRUSTED
    assert trust_bundle.PEER_REVOKED == Reason.PEER_REVOKED
    assert leaf_profile.PEER_IDENTITY_INVALID == Reason.PEER_IDENTITY_INVALID
    assert trust_bundle.PEER_CERTIFICATE_EXPIRED == Reason.PEER_CERTIFICATE_EXPIRED
    assert trust_bundle.PEER_CERTIFICATE_NOT_YET_VALID == Reason.PEER_CERTIFICATE_NOT_YET_VALID


def test_identify_good_chain_gives_its_identity(bundles, forger, now, web):
    assert bundles.identify(forger.chain(forger.leaf()), now) == web


@pytest.mark.parametrize(
    "usages",
    [
        None,
        (
            *[ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
            ExtendedKeyUsageOID.OCSP_SIGNING,
        ),
    ],
)
def test_identify_without_or_with_more_extended_usages_is_accepted(bundles, forger, now, web, usages):
    assert bundles.identify(forger.chain(forger.leaf(usages=usages)), now) == web


def test_identify_leaf_without_basic_constraints_or_with_a_dns_name_too_is_accepted(
    bundles, forger, now, web
):
    names = x509.SubjectAlternativeName([x509.DNSName("web.example"), x509.UniformResourceIdentifier(GOOD)])
    assert bundles.identify(forger.chain(forger.leaf(ca=None, san=names)), now) == web


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"names": [GOOD, "spiffe://cluster.local/ns/default/sa/admin"]}, "has 2 URI names"),
        ({"names": [GOOD, GOOD]}, "has 2 URI names"),
        ({"san": x509.SubjectAlternativeName([x509.DNSName("web.example")])}, "has 0 URI names"),
        ({"without_san": True}, "no subject alternative name"),
        ({"san": UNREADABLE_SAN}, "cannot be read"),
        ({"names": [GOOD + "\x00"]}, "control character"),
        ({"names": ["spiffe://cluster.local\x00.evil/ns/default/sa/web"]}, "control character"),
        ({"names": [GOOD + "\r\nX: y"]}, "control character"),
        ({"names": ["spiffe:///ns/default/sa/web"]}, "empty"),
        ({"names": ["spiffe://cluster.local"]}, "names no workload"),
        ({"names": ["https://cluster.local/ns/default/sa/web"]}, "does not begin with spiffe://"),
        ({"ca": True}, "is a certificate authority"),
        ({"key_usage": None}, "lacks the key usage digitalSignature"),
        ({"key_usage": ENCIPHERING_LEAF}, "lacks the key usage digitalSignature"),
        ({"key_usage": SIGNING_LEAF}, "keyCertSign or cRLSign"),
        ({"key_usage": REVOKING_LEAF}, "keyCertSign or cRLSign"),
        ({"usages": [ExtendedKeyUsageOID.SERVER_AUTH]}, "without both serverAuth and clientAuth"),
        ({"usages": [ExtendedKeyUsageOID.CODE_SIGNING]}, "without both serverAuth and clientAuth"),
    ],
)
def test_identify_leaf_that_is_no_svid_is_rejected_with_the_rule(bundles, forger, now, changes, why):
    reason, message = rejection(bundles, forger.chain(forger.leaf(**changes)), now)
    assert reason == "peer_identity_invalid"
    assert why in message


def test_identify_expired_leaf_says_whose_when_and_now(bundles, forger, now):
    leaf = forger.leaf(not_after=now - timedelta(seconds=1))
    reason, message = rejection(bundles, forger.chain(leaf), now)
    assert reason == "peer_certificate_expired"
    assert message == f"certificate of {GOOD} expired at 2026-03-04T05:06:06Z, now is 2026-03-04T05:06:07Z"


def test_identify_not_yet_valid_leaf_says_whose_when_and_now(bundles, forger, now):
    leaf = forger.leaf(not_before=now + timedelta(seconds=1))
    reason, message = rejection(bundles, forger.chain(leaf), now)
    assert reason == "peer_certificate_not_yet_valid"
    assert f"{GOOD} is not valid before 2026-03-04T05:06:08Z, now is 2026-03-04T05:06:07Z" in message


def test_identify_expired_intermediate_under_a_living_leaf_is_rejected(bundles, forger, now):
    later = now + timedelta(days=400)
    leaf = forger.leaf(not_after=later + timedelta(days=1))
    reason, message = rejection(bundles, forger.chain(leaf), later)
    assert reason == "peer_certificate_expired"
    assert "interceptor intermediate" in message


def test_identify_root_of_another_domain_that_vouches_is_rejected(bundles, forger, foreign_authority, now):
    chain = (forger.leaf(), foreign_authority.intermediate, foreign_authority.root)
    reason, message = rejection(bundles, chain, now)
    assert reason == "peer_untrusted"
    assert "which is no root of cluster.local" in message


def test_identify_unknown_root_of_the_same_name_is_rejected(bundles, forger, now):
    impostor = Authority.create(TrustDomain("cluster.local"), now)
    reason, _ = rejection(bundles, (forger.leaf(), impostor.intermediate, impostor.root), now)
    assert reason == "peer_untrusted"


def test_identify_chain_that_ends_in_an_intermediate_is_rejected(bundles, forger, now):
    assert rejection(bundles, forger.chain(forger.leaf())[:2], now)[0] == "peer_untrusted"


@pytest.mark.parametrize("known", [True, False])
def test_identify_domain_without_bundle_is_rejected_and_the_known_ones_listed(bundles, forger, now, known):
    leaf = forger.leaf(["spiffe://third.example/ns/default/sa/web"])
    reason, message = rejection(bundles if known else TrustBundles({}), forger.chain(leaf), now)
    assert reason == "peer_untrusted"
    assert message.endswith("known are: cluster.local, other.example" if known else "known are: none")


def test_identify_empty_chain_is_rejected(bundles, now):
    assert rejection(bundles, (), now)[0] == "peer_untrusted"


def test_identify_while_a_root_is_replaced_accepts_both(authority, forger, now, web):
    successor = Authority.create(authority.trust_domain, now)
    both = TrustBundle(authority.trust_domain, (successor.root, authority.root))
    bundles = TrustBundles({both.trust_domain: both})
    leaf = forger.leaf()
    assert bundles.identify((leaf, authority.intermediate, authority.root), now) == web
    assert bundles.identify((leaf, successor.intermediate, successor.root), now) == web


@pytest.fixture(scope="session")
def good_der(forger):
    return forger.leaf().public_bytes(Encoding.DER)


@settings(deadline=None, max_examples=200)
@given(changes=st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), min_size=1, max_size=3))
def test_spiffe_id_of_a_damaged_certificate_is_a_value_or_peer_rejected(changes, good_der):
    der = bytearray(good_der)
    for position, value in changes:
        der[position % len(der)] = value
    try:
        damaged = x509.load_der_x509_certificate(bytes(der))
    except (ValueError, x509.InvalidVersion, Warning):
        return  # it does not get as far as us
    try:
        result = spiffe_id_of(damaged)
    except PeerRejected as error:
        result = error
    assert str(result).isprintable()
    assert isinstance(result, SpiffeId) or result.reason == "peer_identity_invalid"


def test_bundle_written_and_read_is_the_same(authority, foreign_authority):
    bundle = TrustBundle(authority.trust_domain, (authority.root, foreign_authority.root))
    assert TrustBundle.from_pem(authority.trust_domain, bundle.to_pem()) == bundle


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_bundle_from_something_else_is_refused(authority, data):
    with pytest.raises(InvalidInput, match=r"trust bundle of cluster.local is not a list"):
        TrustBundle.from_pem(authority.trust_domain, data)


def test_bundle_without_roots_is_refused(authority):
    with pytest.raises(InvalidInput, match="is empty"):
        TrustBundle(authority.trust_domain, ())


@pytest.mark.parametrize("kind", ["leaf", "intermediate", "unreadable"])
def test_bundle_with_something_else_than_a_root_is_refused(authority, forger, kind):
    other = {
        "leaf": forger.leaf(ca=None),
        "intermediate": authority.intermediate,
        "unreadable": forger.leaf(san=UNREADABLE_SAN),
    }[kind]
    with pytest.raises(InvalidInput, match="certificate 2 is no self-signed certificate authority"):
        TrustBundle(authority.trust_domain, (authority.root, other))


def test_bundles_filed_under_another_domain_are_refused(authority, foreign_authority):
    with pytest.raises(InvalidInput, match="is filed under"):
        TrustBundles({authority.trust_domain: foreign_authority.trust_bundle})


def test_bundles_keep_their_own_copy_and_list_all_roots(authority, foreign_authority):
    source = {authority.trust_domain: authority.trust_bundle}
    bundles = TrustBundles(source)
    source[foreign_authority.trust_domain] = foreign_authority.trust_bundle
    assert bundles.roots == (authority.root,)
    assert TrustBundles(source).roots == (authority.root, foreign_authority.root)


def test_forger_can_make_what_authority_makes(forger, authority):
    # Otherwise the tests above could pass for the wrong reason.
    assert forger.leaf().extensions.get_extension_for_class(x509.KeyUsage).value == _key_usage(
        authority=False
    )
    assert isinstance(forger.leaf().public_key(), ec.EllipticCurvePublicKey)
    forger.leaf().verify_directly_issued_by(authority.intermediate)
