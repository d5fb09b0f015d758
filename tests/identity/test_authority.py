"""The authority: what it issues passes a strict OpenSSL, and what it must not issue it refuses."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from interceptor.errors import AuthorityError, InvalidInput
from interceptor.identity.authority import Authority
from interceptor.identity.certificates import authority_trust_domain, leaf_certificate, root_certificate
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.trust_bundle import TrustBundle, TrustBundles

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def issue(authority, spiffe_id, now, lifetime=HOUR):
    request = create_signing_request(spiffe_id, create_private_key())
    return authority.sign(request, spiffe_id, lifetime, now)


def openssl_verified(chain, roots, now):
    """The chain as OpenSSL verifies it under X509_STRICT, anchor last; X509StoreContextError if it does not."""
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    store.set_time(now)
    for root in roots:
        store.add_cert(crypto.X509.from_cryptography(root))
    leaf, *others = (crypto.X509.from_cryptography(certificate) for certificate in chain)
    context = crypto.X509StoreContext(store, leaf, others)
    return tuple(certificate.to_cryptography() for certificate in context.get_verified_chain())


@pytest.mark.parametrize("name", ["cluster.local", "mesh", "a_b-c.0", "10.0.0.1", "t" * 63 + ".u" * 96])
def test_issued_chain_passes_strict_openssl_and_identifies_the_workload(now, name):
    authority = Authority.create(TrustDomain(name), now)
    spiffe_id = SpiffeId(authority.trust_domain, "default", "web.v2")
    chain = issue(authority, spiffe_id, now, 24 * HOUR)
    verified = openssl_verified(chain, authority.trust_bundle.roots, now)
    assert verified == (*chain, authority.root)
    bundles = TrustBundles({authority.trust_domain: authority.trust_bundle})
    assert bundles.identify(verified, now) == spiffe_id


def test_issued_leaf_has_the_profile_of_an_svid(authority, web, now):
    key = create_private_key()
    leaf, intermediate = authority.sign(create_signing_request(web, key), web, HOUR, now)
    assert intermediate == authority.intermediate
    assert leaf.public_key() == key.public_key()
    assert not list(leaf.subject)
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (now - timedelta(seconds=60), now + HOUR)
    assert leaf.serial_number.bit_length() > 64
    found = {type(extension.value): extension for extension in leaf.extensions}
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(web))])
    assert (found[x509.SubjectAlternativeName].value, found[x509.SubjectAlternativeName].critical) == (
        names,
        True,
    )
    basic = found[x509.BasicConstraints]
    assert (basic.value.ca, basic.critical) == (False, True)
    usage = found[x509.KeyUsage]
    assert (usage.value.digital_signature, usage.value.key_cert_sign, usage.critical) == (True, False, True)
    purposes = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert set(found[x509.ExtendedKeyUsage].value) == purposes
    issuer_key_id = intermediate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert found[x509.AuthorityKeyIdentifier].value.key_identifier == issuer_key_id
    assert x509.SubjectKeyIdentifier in found


def test_issued_serial_numbers_differ(authority, web, now):
    assert len({issue(authority, web, now)[0].serial_number for _ in range(20)}) == 20


def test_created_authority_lasts_ten_years_and_one(authority, now):
    assert authority.root.not_valid_after_utc == now + timedelta(days=3650)
    assert authority.not_after == authority.intermediate.not_valid_after_utc == now + timedelta(days=365)
    for certificate, depth in ((authority.root, 1), (authority.intermediate, 0)):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value.path_length) == (True, depth)
        assert isinstance(certificate.public_key().curve, ec.SECP256R1)


def test_intermediate_cannot_sign_for_another_domain_even_if_its_key_is_stolen(authority, now):
    stranger = SpiffeId(TrustDomain("other.example"), "default", "web")
    issuer = (authority.intermediate, authority.intermediate_key)
    leaf = leaf_certificate(stranger, create_private_key().public_key(), issuer, now, HOUR)
    with pytest.raises(crypto.X509StoreContextError, match="permitted subtree violation"):
        openssl_verified((leaf, authority.intermediate), [authority.root], now)


def test_sign_caps_the_leaf_at_the_end_of_the_intermediate(authority, web):
    late = authority.not_after - timedelta(minutes=10)
    assert issue(authority, web, late)[0].not_valid_after_utc == authority.not_after


@pytest.mark.parametrize(
    "lifetime", [timedelta(0), -HOUR, timedelta(milliseconds=999), DAY + timedelta(seconds=1)]
)
def test_sign_with_a_lifetime_out_of_range_is_refused(authority, web, now, lifetime):
    with pytest.raises(AuthorityError, match="choose 1 s to 24 h"):
        issue(authority, web, now, lifetime)


@pytest.mark.parametrize("days", [-1, 365, 400])
def test_sign_while_the_intermediate_is_not_valid_is_refused(authority, web, now, days):
    with pytest.raises(AuthorityError, match="check the clock, or renew the intermediate"):
        issue(authority, web, now + days * DAY)


def test_sign_for_another_trust_domain_is_refused(authority, now):
    with pytest.raises(AuthorityError, match=r"authority of cluster\.local cannot issue for spiffe://other"):
        issue(authority, SpiffeId(TrustDomain("other.example"), "default", "web"), now)


def test_sign_of_a_request_for_another_workload_is_refused(authority, web, now):
    request = create_signing_request(SpiffeId(web.trust_domain, "default", "admin"), create_private_key())
    with pytest.raises(AuthorityError, match="exactly that id is required"):
        authority.sign(request, web, HOUR, now)


def test_renewed_intermediate_and_old_leaves_are_both_verified(authority, web, now):
    old_chain = issue(authority, web, now + 200 * DAY, DAY)
    renewed = authority.with_renewed_intermediate(now + 200 * DAY)
    new_chain = issue(renewed, web, now + 200 * DAY, DAY)
    assert renewed.intermediate.public_key() != authority.intermediate.public_key()
    assert renewed.not_after == now + 565 * DAY
    assert renewed.trust_bundle == authority.trust_bundle
    for chain in (old_chain, new_chain):
        assert openssl_verified(chain, renewed.trust_bundle.roots, now + 200 * DAY)[-1] == authority.root


def test_renewed_intermediate_ends_with_its_root(authority, now):
    renewed = authority.with_renewed_intermediate(now + 3600 * DAY)
    assert renewed.not_after == authority.root.not_valid_after_utc


def test_renewal_without_the_root_key_is_refused_while_signing_goes_on(authority, web, now):
    offline = Authority(authority.trust_bundle, authority.intermediate, authority.intermediate_key, None)
    assert issue(offline, web, now)
    with pytest.raises(AuthorityError, match="without the root key"):
        offline.with_renewed_intermediate(now)


@pytest.mark.parametrize("days", [-1, 3650])
def test_renewal_while_the_root_is_not_valid_is_refused(authority, now, days):
    with pytest.raises(AuthorityError, match="root certificate is valid from"):
        authority.with_renewed_intermediate(now + days * DAY)


@pytest.mark.parametrize(("days", "due"), [(0, False), (182, False), (183, True), (400, True), (-1, True)])
def test_intermediate_is_due_past_half_its_life_or_before_it(authority, now, days, due):
    assert authority.needs_intermediate(now + days * DAY) is due


def test_authority_with_two_roots_signs_with_the_one_that_made_its_intermediate(authority, web, now):
    successor = Authority.create(authority.trust_domain, now)
    roots = TrustBundle(authority.trust_domain, (authority.root, successor.root))
    merged = Authority(roots, successor.intermediate, successor.intermediate_key, successor.root_key)
    assert merged.root == successor.root
    verified = openssl_verified(issue(merged, web, now), roots.roots, now)
    assert TrustBundles({roots.trust_domain: roots}).identify(verified, now) == web
    assert merged.with_renewed_intermediate(now).root == successor.root


def test_authority_from_parts_that_do_not_belong_together_is_refused(authority, now):
    other = Authority.create(authority.trust_domain, now)
    good = (authority.trust_bundle, authority.intermediate, authority.intermediate_key, authority.root_key)
    with pytest.raises(AuthorityError, match="not signed by the root certificate"):
        Authority(other.trust_bundle, *good[1:])
    with pytest.raises(AuthorityError, match="intermediate key does not match"):
        Authority(*good[:2], other.intermediate_key, None)
    with pytest.raises(AuthorityError, match="root key does not match"):
        Authority(*good[:3], other.root_key)


def test_authority_trust_domain_is_read_from_its_certificates_only(authority, forger, now):
    for certificate in (authority.root, authority.intermediate):
        assert authority_trust_domain(certificate) == authority.trust_domain
    for other in (forger.leaf(without_san=True), forger.leaf(["spiffe://a", "spiffe://b"]), forger.leaf()):
        with pytest.raises(InvalidInput):
            authority_trust_domain(other)


def test_roots_of_one_domain_have_different_names(now):
    names = {root_certificate(TrustDomain("td"), create_private_key(), now, DAY).subject for _ in range(5)}
    assert len(names) == 5
