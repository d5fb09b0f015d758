"""Nodes and the authority's service prove themselves like workloads do, and are never taken for one."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from interceptor.errors import InvalidInput, PeerRejected
from interceptor.identity.certificates import fingerprint
from interceptor.identity.node_id import AuthorityId, NodeId
from interceptor.identity.revocation import Revocation, RevocationKind, RevocationList
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.svid import AuthoritySvid, NodeSvid, X509Svid
from interceptor.identity.trust_bundle import TrustBundles, serial_numbers

HOUR = timedelta(hours=1)
OWN, OLD = TrustDomain("cluster.local"), TrustDomain("old.example")
NODE, SERVICE, WEB = NodeId(OWN, "a"), AuthorityId(OWN), SpiffeId(OWN, "default", "web")


@pytest.fixture(scope="session")
def bundles(authority):
    return TrustBundles({OWN: authority.trust_bundle}, own=OWN)


@pytest.fixture(scope="session")
def issue(authority, now):
    def issue(identity):
        key = create_private_key()
        return key, authority.sign(create_signing_request(identity, key), identity, HOUR, now)

    return issue


@pytest.fixture(scope="session")
def chain_of(issue, authority):
    return lambda identity: (*issue(identity)[1], authority.root)


def rejection(identify, chain, now):
    with pytest.raises(PeerRejected) as caught:
        identify(chain, now)
    assert str(caught.value).isprintable()
    return caught.value.reason, str(caught.value)


def test_each_kind_proves_what_it_is_and_nothing_else(bundles, chain_of, now):
    readers = {WEB: bundles.identify, NODE: bundles.identify_node, SERVICE: bundles.identify_authority}
    for identity in readers:
        chain = chain_of(identity)
        for wanted, identify in readers.items():
            if wanted == identity:
                assert identify(chain, now) == identity
            else:
                assert rejection(identify, chain, now)[0] == "peer_identity_invalid"


def test_node_certificate_as_a_workloads_says_what_it_is(bundles, chain_of, now):
    _, message = rejection(bundles.identify, chain_of(NODE), now)
    assert "is a node's identity, not a workload's" in message


def test_node_without_chain_out_of_time_or_of_another_root_is_rejected(
    bundles, chain_of, now, foreign_authority
):
    chain = chain_of(NODE)
    assert rejection(bundles.identify_node, (), now)[0] == "peer_untrusted"
    assert rejection(bundles.identify_node, chain, now + 2 * HOUR)[0] == "peer_certificate_expired"
    assert rejection(bundles.identify_node, chain, now - HOUR)[0] == "peer_certificate_not_yet_valid"
    assert rejection(bundles.identify_node, (*chain[:2], foreign_authority.root), now)[0] == "peer_untrusted"
    assert rejection(TrustBundles({}).identify_node, chain, now)[0] == "peer_untrusted"


@pytest.mark.parametrize(
    ("identity", "kind"),
    [
        (WEB, RevocationKind.IDENTITY),
        (NODE, RevocationKind.NODE),
        (WEB, RevocationKind.SERIAL),
        (NODE, RevocationKind.SERIAL),
    ],
)
def test_revoked_peer_is_rejected_with_the_reason(bundles, chain_of, now, identity, kind):
    chain = chain_of(identity)
    value = serial_numbers(chain)[0] if kind is RevocationKind.SERIAL else str(identity)
    revoked = RevocationList((Revocation(kind, value, now, "stolen"),))
    identify = "identify" if identity is WEB else "identify_node"
    reason, message = rejection(getattr(replace(bundles, revoked=revoked), identify), chain, now)
    assert reason == "peer_revoked"
    what = f"serial {value} of {identity}" if kind is RevocationKind.SERIAL else str(identity)
    assert message == f"{what} was revoked at 2026-03-04T05:06:07Z: stolen"
    assert getattr(bundles, identify)(chain, now) == identity


def test_revoked_intermediate_takes_all_that_it_signed_along(bundles, chain_of, now, authority):
    (serial,) = serial_numbers([authority.intermediate])
    revoked = RevocationList((Revocation(RevocationKind.SERIAL, serial, now, ""),))
    reason, message = rejection(replace(bundles, revoked=revoked).identify, chain_of(WEB), now)
    assert reason == "peer_revoked"
    assert message.endswith("2026-03-04T05:06:07Z")


def test_live_connection_can_be_asked_about_without_its_chain(bundles, now):
    revoked = RevocationList((Revocation(RevocationKind.SERIAL, "abc", now, ""),))
    bundles.require_not_revoked(WEB, ["abc"])
    with pytest.raises(PeerRejected, match="serial abc of"):
        replace(bundles, revoked=revoked).require_not_revoked(WEB, ["abc"])
    replace(bundles, revoked=revoked).require_not_revoked(NODE, ["abcd"])


def test_alias_counts_as_the_own_trust_domain(bundles):
    renamed = replace(bundles, aliases=(OLD,))
    assert renamed.canonical(SpiffeId(OLD, "default", "web")) == WEB
    assert renamed.canonical(WEB) == WEB
    stranger = SpiffeId(TrustDomain("other.example"), "default", "web")
    assert renamed.canonical(stranger) == stranger
    assert bundles.canonical(SpiffeId(OLD, "default", "web")) == SpiffeId(OLD, "default", "web")


def test_alias_is_verified_against_its_own_bundle_if_there_is_one(
    bundles, forger, authority, foreign_authority, now
):
    # What the old authority signed, under the new domain's root: OpenSSL's name constraint is not looked at here.
    chain = forger.chain(forger.leaf(["spiffe://other.example/ns/default/sa/web"]))
    other = foreign_authority.trust_domain
    assert rejection(bundles.identify, chain, now)[0] == "peer_untrusted"
    renamed = replace(bundles, aliases=(other,))
    assert renamed.identify(chain, now) == SpiffeId(other, "default", "web")
    both = TrustBundles({OWN: authority.trust_bundle, other: foreign_authority.trust_bundle}, (other,), OWN)
    assert rejection(both.identify, chain, now)[0] == "peer_untrusted"


def test_revocation_of_the_own_name_holds_for_the_alias_too(bundles, forger, now, foreign_authority):
    chain = forger.chain(forger.leaf(["spiffe://other.example/ns/default/sa/web"]))
    revoked = RevocationList((Revocation(RevocationKind.IDENTITY, str(WEB), now, ""),))
    renamed = replace(bundles, aliases=(foreign_authority.trust_domain,), revoked=revoked)
    assert rejection(renamed.identify, chain, now)[0] == "peer_revoked"


@pytest.mark.parametrize("own", [None, OLD])
def test_aliases_without_an_own_domain_or_of_itself_are_refused(own):
    with pytest.raises(InvalidInput, match=r"cannot have the aliases old\.example"):
        TrustBundles({}, (OLD,), own)


@pytest.mark.parametrize(("kind", "identity"), [(X509Svid, WEB), (NodeSvid, NODE), (AuthoritySvid, SERVICE)])
def test_svid_of_each_kind_holds_what_was_issued(kind, identity, issue, now):
    key, chain = issue(identity)
    svid = kind(identity, chain, key, now)
    assert svid.spiffe_id == identity
    assert repr(svid).startswith(f"{kind.__name__}({identity}, serial ")
    (name,) = svid.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name.value == str(identity)


def test_svid_of_one_kind_made_of_anothers_certificate_is_refused(issue, now):
    key, chain = issue(NODE)
    with pytest.raises(InvalidInput, match="is no SVID"):
        X509Svid(WEB, chain, key, now)


def test_fingerprint_is_the_sha256_in_hexadecimal(authority):
    assert len(fingerprint(authority.root)) == 64
    assert int(fingerprint(authority.root), 16)
