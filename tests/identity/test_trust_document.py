"""The trust document: one spelling, hashes that stand for it, and nothing but it comes out of the reader."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interceptor.errors import InvalidInput
from interceptor.identity.authority import Authority
from interceptor.identity.revocation import Revocation, RevocationKind, RevocationList
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.identity.trust_bundle import TrustBundle
from interceptor.identity.trust_document import TrustDocument

OLD = TrustDomain("old.example")


@pytest.fixture(scope="session")
def document(authority, foreign_authority, now):
    revoked = RevocationList((Revocation(RevocationKind.SERIAL, "abc", now, "lost"),))
    bundles = (foreign_authority.trust_bundle, authority.trust_bundle)
    return TrustDocument(authority.trust_domain, bundles, (OLD,), revoked)


def test_document_written_and_read_is_the_same(document):
    data = document.to_json()
    assert TrustDocument.from_json(data) == document
    assert TrustDocument.from_json(data).to_json() == data
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()


def test_document_is_sorted_whatever_the_order_was(document, authority, now):
    successor = Authority.create(authority.trust_domain, now)
    roots = (authority.root, successor.root)
    one, two = (
        replace(document, bundles=(TrustBundle(authority.trust_domain, order), document.bundles[1]))
        for order in (roots, roots[::-1])
    )
    assert one == two
    assert one.document_hash == two.document_hash


def test_bundle_hash_stands_for_bundles_and_aliases_only(document):
    forgiven = replace(document, revoked=RevocationList.empty())
    assert forgiven.bundle_hash == document.bundle_hash
    assert forgiven.document_hash != document.document_hash
    assert replace(document, aliases=()).bundle_hash != document.bundle_hash
    assert replace(document, bundles=document.bundles[:1]).bundle_hash != document.bundle_hash
    assert document.bundle_hash.startswith("sha256:")
    assert len(document.bundle_hash) == 71


def test_document_becomes_the_bundles_that_peers_are_verified_with(document, authority, foreign_authority):
    bundles = document.trust_bundles()
    assert set(bundles.roots) == {authority.root, foreign_authority.root}
    assert (bundles.own, bundles.aliases) == (authority.trust_domain, (OLD,))
    assert bundles.revoked == document.revoked


def test_document_without_own_bundle_or_with_two_is_refused(document, authority, foreign_authority):
    with pytest.raises(InvalidInput, match="needs one bundle of it"):
        replace(document, bundles=(foreign_authority.trust_bundle,))
    with pytest.raises(InvalidInput, match="needs one bundle of it"):
        replace(document, bundles=(authority.trust_bundle, authority.trust_bundle))


@pytest.mark.parametrize("aliases", [(TrustDomain("cluster.local"),), (OLD, OLD)])
def test_document_with_an_alias_that_is_none_is_refused(document, aliases):
    with pytest.raises(InvalidInput, match="alias"):
        replace(document, aliases=aliases)


def test_document_with_too_much_is_refused(document):
    with pytest.raises(InvalidInput, match="16 aliases"):
        replace(document, aliases=tuple(TrustDomain(f"d{number}") for number in range(17)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"trust_domain": "A"}, "trust domain 'A'"),
        ({"aliases": ["A"]}, "trust domain 'A'"),
        ({"bundles": [{"trust_domain": "cluster.local", "roots": ["junk"]}]}, "not a list of PEM"),
        ({"bundles": [{"trust_domain": "cluster.local", "roots": ["é"]}]}, "not a list of PEM"),
        ({"bundles": [{"trust_domain": "cluster.local", "roots": []}]}, "not a list of PEM|empty"),
        ({"bundles": {}}, "bundles is"),
        ({"revoked": [1]}, "revocation is not a JSON object"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_document_that_was_changed_is_refused(document, change, why):
    data = json.dumps({**json.loads(document.to_json()), **change}).encode()
    with pytest.raises(InvalidInput, match=why) as caught:
        TrustDocument.from_json(data)
    assert str(caught.value).isprintable()


@settings(deadline=None)
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_document_with_a_byte_changed_is_another_or_invalid_input(document, at, byte):
    data = bytearray(document.to_json())
    data[at % len(data)] = byte
    try:
        TrustDocument.from_json(bytes(data))
    except InvalidInput as error:
        shown = str(error)
    else:
        shown = ""
    assert not shown or shown.isprintable()
