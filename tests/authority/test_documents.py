"""The bodies of the API: each comes back as it was sent, and nothing else comes out of the readers."""

import json
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.authority.documents import (
    Chain,
    ErrorBody,
    Issue,
    NodeReport,
    RegisteredWorkload,
    RegistryDocument,
)
from interceptor.authority.node_documents import Join, Joined, Renewed, RenewNode
from interceptor.authority.refusal import Code
from interceptor.errors import InvalidInput
from interceptor.identity.revocation import RevocationList
from interceptor.identity.trust_document import TrustDocument
from interceptor.labels import Labels
from interceptor.workload import Workload, WorkloadKey

NONCE = "n" * 16
HASH = "sha256:" + "ab" * 32
WEB = RegisteredWorkload(
    "shop", "web-1", "web", (ip_address("10.0.0.1"), ip_address("fd00::1")), "a", {"app": "x"}
)
OPTIONAL = {"return_hash", "return_until", "unkept"}
KINDS = [Chain, ErrorBody, Issue, Join, Joined, NodeReport, RegistryDocument, Renewed, RenewNode]


@pytest.fixture(scope="session")
def documents(now, issuer):
    trust = TrustDocument(issuer.trust_domain, (issuer.trust_bundle,), (), RevocationList.empty())
    return {
        Chain: Chain.of((issuer.intermediate, issuer.root)),
        ErrorBody: ErrorBody("token_used", "why"),
        Issue: Issue("spiffe://td/ns/a/sa/b", "csr", 60, now, NONCE),
        Join: Join("it1.secret", "a", "csr", now, NONCE, "ab" * 32),
        Joined: Joined(Chain.of((issuer.intermediate,)), trust, now),
        Renewed: Renewed(Chain.of((issuer.intermediate,)), now),
        NodeReport: NodeReport(HASH, HASH, ("cd" * 32,), (WEB,), now, "disk full"),
        RegistryDocument: RegistryDocument(7, (WEB,)),
        RenewNode: RenewNode("csr", now, NONCE),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_document_written_and_read_is_the_same(documents, kind):
    data = documents[kind].to_json()
    assert kind.from_json(data) == documents[kind]
    assert kind.from_json(data).to_json() == data


@pytest.mark.parametrize("kind", KINDS)
def test_document_with_more_or_less_than_its_fields_is_refused(documents, kind):
    values = json.loads(documents[kind].to_json())
    for name in set(values) - OPTIONAL:
        less = {key: value for key, value in values.items() if key != name}
        for changed in (less, {**values, name: None}):
            with pytest.raises(InvalidInput, match=name):
                kind.from_json(json.dumps(changed).encode())
    for name in set(values) & OPTIONAL:
        with pytest.raises(InvalidInput, match=name):
            kind.from_json(json.dumps({**values, name: None}).encode())
    with pytest.raises(InvalidInput, match="unknown field 'more'"):
        kind.from_json(json.dumps({**values, "more": 1}).encode())


@given(data=st.binary(max_size=200))
def test_reader_given_any_bytes_raises_invalid_input_only(data):
    for kind in KINDS:
        with pytest.raises(InvalidInput) as caught:
            kind.from_json(data)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", KINDS)
def test_document_of_more_bytes_than_allowed_is_refused(kind):
    with pytest.raises(InvalidInput, match="at most"):
        kind.from_json(b" " * (33 * 1024 * 1024))


@pytest.mark.parametrize("kind", [Issue, Join, RenewNode])
def test_request_with_a_signing_request_of_a_megabyte_is_refused(documents, kind):
    values = json.loads(documents[kind].to_json())
    with pytest.raises(InvalidInput, match=r"csr_pem is .* expected a text of at most 16384 characters"):
        kind.from_json(json.dumps({**values, "csr_pem": "x" * 1_000_000}).encode())


@pytest.mark.parametrize("nonce", ["", "n" * 15, "n" * 65, "n" * 15 + "\n", "n" * 15 + "é"])
@pytest.mark.parametrize("kind", [Issue, Join, RenewNode])
def test_request_with_a_nonce_that_is_none_is_refused(documents, kind, nonce):
    with pytest.raises(InvalidInput, match="nonce"):
        kind.from_json(replace(documents[kind], nonce=nonce).to_json())


def test_token_of_a_join_is_in_no_message_and_no_repr(documents):
    assert "it1" not in repr(documents[Join])
    values = json.loads(documents[Join].to_json())
    with pytest.raises(InvalidInput) as caught:
        Join.from_json(json.dumps({**values, "token": "it1." + "s" * 20_000}).encode())
    assert "it1" not in str(caught.value)


def test_chain_that_is_no_pem_is_refused():
    for text in ("", "junk", "é"):
        with pytest.raises(InvalidInput, match="not a list of PEM"):
            Chain(text).certificates()


def test_chain_gives_its_certificates_back(documents, issuer):
    assert documents[Chain].certificates() == (issuer.intermediate, issuer.root)


def test_error_with_a_long_message_can_be_read_still():
    assert len(ErrorBody.from_json(ErrorBody("token_used", "x" * 5000).to_json()).message) == 2000


def test_error_of_a_later_version_keeps_its_code(documents):
    assert ErrorBody("of_tomorrow", "why").known_code is None
    assert documents[ErrorBody].known_code is Code.TOKEN_USED


def test_lifetime_of_an_issue_request_is_in_seconds(documents):
    assert documents[Issue].lifetime.total_seconds() == 60


def test_registered_workload_is_the_workload_of_its_node(web):
    workload = Workload(
        WorkloadKey("default", "web-1"), web, (ip_address("10.0.0.1"),), "a", Labels({"app": "x"})
    )
    registered = RegisteredWorkload.of(workload, workload.labels)
    assert registered.workload(web.trust_domain) == workload
    assert registered.labels == {"app": "x"}


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": "A"},
        {"name": "../etc"},
        {"service_account": "-"},
        {"addresses": ["10.0.0.256"]},
        {"addresses": ["fe80::1%eth0"]},
        {"addresses": ["10.0.0.1"] * 33},
        {"node": "A"},
        {"labels": {"a": 1}},
    ],
)
def test_registered_workload_that_breaks_a_rule_is_refused(change):
    with pytest.raises(InvalidInput) as caught:
        RegisteredWorkload.from_document({**WEB.to_document(), **change})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bundle_hash": "ab"}, "is not a hash"),
        ({"document_hash": HASH.upper()}, "is not a hash"),
        ({"issuers": ("ab",)}, "is not a fingerprint"),
        ({"workloads": (WEB, replace(WEB, labels={}))}, "there twice"),
    ],
)
def test_report_that_breaks_a_rule_is_refused(documents, change, why):
    with pytest.raises(InvalidInput, match=why):
        replace(documents[NodeReport], **change)


def test_report_is_sorted_whatever_the_order_was(documents):
    other = replace(WEB, name="a")
    report = replace(documents[NodeReport], issuers=("ff" * 32, "aa" * 32, "ff" * 32), workloads=(WEB, other))
    assert report.issuers == ("aa" * 32, "ff" * 32)
    assert report.workloads == (other, WEB)


FIRST_VERSION = {
    # What the first version wrote and read, field by field.
    Join: {"at", "csr_pem", "node", "nonce", "token"},
    RenewNode: {"at", "csr_pem", "nonce"},
    Issue: {"at", "csr_pem", "lifetime_seconds", "nonce", "spiffe_id"},
    NodeReport: {"at", "bundle_hash", "document_hash", "issuers", "workloads"},
    Joined: {"chain", "trust"},
    Renewed: {"certificates_pem"},
    Chain: {"certificates_pem"},
    RegistryDocument: {"version", "workloads"},
    ErrorBody: {"code", "message"},
}


def test_every_document_has_a_first_version():
    assert set(FIRST_VERSION) == set(KINDS)


@pytest.mark.parametrize("kind", FIRST_VERSION)
def test_document_of_the_first_version_is_read_and_one_that_says_nothing_more_is_one(documents, kind):
    values = json.loads(documents[kind].to_json())
    first = json.dumps({name: values[name] for name in FIRST_VERSION[kind]}).encode()
    read = kind.from_json(first)
    assert set(json.loads(read.to_json())) == FIRST_VERSION[kind]
    assert set(values) - FIRST_VERSION[kind] <= OPTIONAL
