"""Revocations, trust bundles of others, aliases: in the next trust document, or refused with nothing changed."""

import os
from contextlib import closing

import pytest

from interceptor.authority_store import AuthorityStore, beliefs
from interceptor.errors import InvalidInput
from interceptor.identity.authority import Authority
from interceptor.identity.revocation import Revocation, RevocationKind
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.identity.trust_bundle import TrustBundle
from tests.authority_store.helpers import DAY, DOMAIN, NOW

WEB = "spiffe://cluster.local/ns/default/sa/web"
OTHER = TrustDomain("other.example")


@pytest.fixture
def store(home):
    with closing(AuthorityStore.create(home, DOMAIN, NOW)) as store:
        yield store


def unchanged(store, call, *arguments):
    before = (store.version(), store.trust_document())
    with pytest.raises(InvalidInput) as caught:
        call(*arguments)
    assert (store.version(), store.trust_document()) == before
    return str(caught.value)


def test_new_authority_believes_in_its_own_root_only(store):
    document = store.trust_document()
    assert document.trust_domain == DOMAIN
    assert document.trust_bundles().roots == (store.issuer(NOW).root,)
    assert (document.aliases, document.revoked.entries) == ((), ())


def test_revocation_is_in_the_document_until_it_is_taken_back(store):
    before = store.trust_document()
    version = store.version()
    store.revoke(RevocationKind.IDENTITY, WEB, "stolen", NOW)
    revocation = Revocation(RevocationKind.IDENTITY, WEB, NOW, "stolen")
    assert store.version() > version
    assert store.trust_document().revoked.entries == store.revocations() == (revocation,)
    assert store.trust_document().bundle_hash == before.bundle_hash
    store.unrevoke(WEB)
    assert store.trust_document() == before


def test_revocation_of_what_is_revoked_stays_as_it_was(store):
    store.revoke(RevocationKind.SERIAL, "abc", "first", NOW)
    store.revoke(RevocationKind.SERIAL, "abc", "second", NOW + DAY)
    assert [(entry.why, entry.revoked_at) for entry in store.revocations()] == [("first", NOW)]


def test_revocation_that_makes_no_sense_is_refused(store):
    assert "SPIFFE ID" in unchanged(store, store.revoke, RevocationKind.IDENTITY, "web", "", NOW)
    assert "is not revoked" in unchanged(store, store.unrevoke, "abc")


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (RevocationKind.IDENTITY, "spiffe://cluster.lokal/ns/default/sa/web"),
        (RevocationKind.NODE, "spiffe://cluster.lokal/node/a"),
    ],
)
def test_revocation_of_what_nobody_believes_is_refused(store, kind, value):
    said = unchanged(store, store.revoke, kind, value, "", NOW)
    assert "trust domain cluster.lokal, which nobody believes" in said


def test_revocation_reaches_other_trust_domains_that_are_believed(store):
    store.federate(Authority.create(OTHER, NOW).trust_bundle)
    store.add_alias(TrustDomain("old.example"))
    for domain in ("other.example", "old.example"):
        store.revoke(RevocationKind.IDENTITY, f"spiffe://{domain}/ns/default/sa/web", "", NOW)
    assert len(store.revocations()) == 2


def test_whoever_issues_cannot_be_revoked_before_there_is_another(store):
    issuer = store.issuer(NOW)
    for certificate, remedy in (
        (issuer.intermediate, "'interceptor ca rotate intermediate'"),
        (issuer.root, "'interceptor ca rotate prepare'"),
    ):
        serial = f"{certificate.serial_number:x}"
        said = unchanged(store, store.revoke, RevocationKind.SERIAL, serial, "", NOW)
        assert "every certificate would be refused" in said
        assert remedy in said
    store.rotate_intermediate(NOW)
    old = f"{issuer.intermediate.serial_number:x}"
    store.revoke(RevocationKind.SERIAL, old, "", NOW)
    assert [entry.value for entry in store.revocations()] == [old]


def test_revocation_that_no_document_can_carry_is_refused(store, monkeypatch):
    monkeypatch.setattr(beliefs, "MAX_TRUST_DOCUMENT_BYTES", 100)
    assert "at most 100 can be sent" in unchanged(store, store.revoke, RevocationKind.SERIAL, "a", "", NOW)


def test_federated_bundle_is_in_the_document_until_it_is_removed(store):
    first, second = (Authority.create(OTHER, NOW) for _ in range(2))
    store.federate(first.trust_bundle)
    store.federate(second.trust_bundle)
    bundles = store.trust_document().trust_bundles().bundles
    assert bundles[OTHER].roots == (second.root,)
    store.unfederate(OTHER)
    assert set(store.trust_document().trust_bundles().bundles) == {DOMAIN}
    assert "no trust bundle of other.example" in unchanged(store, store.unfederate, OTHER)


def test_own_bundle_cannot_be_replaced_by_federation(store):
    bundle = Authority.create(DOMAIN, NOW).trust_bundle
    assert "our own trust domain" in unchanged(store, store.federate, bundle)


def test_root_of_one_trust_domain_cannot_vouch_for_another(store):
    for domain in (DOMAIN, TrustDomain("third.example")):
        root = Authority.create(domain, NOW).root if domain != DOMAIN else store.issuer(NOW).root
        if domain != DOMAIN:
            store.federate(TrustBundle(domain, (root,)))
        said = unchanged(store, store.federate, TrustBundle(OTHER, (root,)))
        assert f"is one of {domain} already, it cannot vouch for other.example too" in said


def test_aliases_are_added_and_removed_one_by_one(store):
    old = TrustDomain("old.example")
    for alias in (OTHER, old, old):
        store.add_alias(alias)
    assert store.trust_document().aliases == (old, OTHER)
    store.remove_alias(old)
    assert store.trust_document().aliases == (OTHER,)
    assert "old.example is no alias" in unchanged(store, store.remove_alias, old)


def test_aliases_that_are_set_by_several_at_once_are_all_there(home, store):
    added = [TrustDomain(f"d{number}.example") for number in range(8)]
    children = []
    for alias in added:
        child = os.fork()
        if child == 0:
            try:
                AuthorityStore.open(home, None).add_alias(alias)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(added)
    assert store.trust_document().aliases == tuple(added)


def test_aliases_that_are_none_are_refused(store):
    assert "alias" in unchanged(store, store.add_alias, DOMAIN)
    for number in range(16):
        store.add_alias(TrustDomain(f"d{number}"))
    assert "16 aliases" in unchanged(store, store.add_alias, OTHER)


def test_change_by_another_process_is_seen_at_once(home, store):
    before = store.trust_document()
    with closing(AuthorityStore.open(home, None)) as other:
        other.revoke(RevocationKind.SERIAL, "abc", "", NOW)
    assert store.trust_document() != before
    assert len(store.revocations()) == 1
