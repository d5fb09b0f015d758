"""Tokens and nodes in the store: one token lets one node in, whoever tries at the same instant."""

import os
import threading
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

import pytest

from interceptor.authority.admission import AllowPattern
from interceptor.authority.refusal import Code, Refused
from interceptor.authority.reports import NodeReport, RegisteredWorkload
from interceptor.authority.tokens import Token
from interceptor.authority_store import AuthorityStore, membership
from interceptor.errors import InvalidInput
from interceptor.identity.certificates import fingerprint
from interceptor.identity.revocation import RevocationKind
from tests.authority_store.helpers import DAY, DOMAIN, NOW

SHOP = (AllowPattern.parse("ns/shop/sa/*"),)
TTL = timedelta(minutes=10)
HASH = "sha256:" + "ab" * 32
WEB = RegisteredWorkload("shop", "web-1", "web", (ip_address("10.0.0.1"),), "a", {})


@pytest.fixture
def store(home):
    with closing(AuthorityStore.create(home, DOMAIN, NOW)) as store:
        yield store


@pytest.fixture
def joined(store):
    for name in ("a", "b"):
        store.redeem_token(store.create_token(name, TTL, SHOP, NOW), name, NOW)
    return store


def report(*workloads):
    return NodeReport(HASH, HASH, (), workloads, NOW)


def refused(call, *arguments):
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert str(caught.value).isprintable()
    return caught.value.code


def test_token_lets_its_node_in_with_what_it_allows(store):
    text = store.create_token("a", TTL, SHOP, NOW)
    assert Token.parse(text).root_fingerprint == fingerprint(store.issuer(NOW).root)
    assert store.node("a") is None
    store.redeem_token(text, "a", NOW + timedelta(minutes=5))
    record = store.node("a")
    assert (record.name, record.allowed, record.joined_at) == ("a", SHOP, NOW + timedelta(minutes=5))
    assert (record.revoked, record.report, store.nodes()) == (False, None, (record,))


def test_token_is_used_once(store):
    text = store.create_token("a", TTL, SHOP, NOW)
    store.redeem_token(text, "a", NOW)
    with pytest.raises(Refused, match=r"^token_used: token [0-9a-f]{16} was used at 2026-03-04T05:06:07Z"):
        store.redeem_token(text, "a", NOW)
    (record,) = store.tokens()
    assert record.state(NOW) == "used"


def test_token_is_refused_too_late_for_another_node_and_with_another_secret(store):
    text = store.create_token("a", TTL, SHOP, NOW)
    assert refused(store.redeem_token, text, "a", NOW + TTL) is Code.TOKEN_EXPIRED
    assert refused(store.redeem_token, text, "b", NOW) is Code.TOKEN_FOR_OTHER_NODE
    forged = replace(Token.parse(text), secret=bytes(32))
    assert refused(store.redeem_token, forged.text(), "a", NOW) is Code.TOKEN_INVALID
    unknown = replace(Token.parse(text), id="0" * 16)
    assert refused(store.redeem_token, unknown.text(), "a", NOW) is Code.TOKEN_INVALID
    assert refused(store.redeem_token, "it1.junk", "a", NOW) is Code.TOKEN_INVALID
    (record,) = store.tokens()
    assert [record.state(NOW), record.state(NOW + TTL)] == ["unused", "expired"]
    store.redeem_token(text, "a", NOW)


def test_token_secret_is_nowhere_on_the_disk(home, store):
    text = store.create_token("a", TTL, SHOP, NOW)
    secret = Token.parse(text).secret
    for path in home.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert secret not in data
            assert text.rpartition(".")[2].encode() not in data


def test_token_redeemed_by_many_threads_at_once_lets_one_in(home, store):
    text = store.create_token("a", TTL, SHOP, NOW)
    start, outcomes = threading.Barrier(8), []

    def redeem():
        start.wait()
        try:
            store.redeem_token(text, "a", NOW)
            outcomes.append("in")
        except Refused as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=redeem) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in", *[Code.TOKEN_USED] * 7]


def test_token_redeemed_by_many_processes_at_once_lets_one_in(home, store):
    text = store.create_token("a", TTL, SHOP, NOW)
    ready, go = os.pipe(), os.pipe()
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            try:
                mine = AuthorityStore.open(home, None)
                os.write(ready[1], b".")
                os.close(go[1])
                os.read(go[0], 1)  # until the parent closes its end
                mine.redeem_token(text, "a", NOW)
                os._exit(0)
            except Refused as error:
                os._exit(7 if error.code is Code.TOKEN_USED else 1)
            finally:
                os._exit(1)
        children.append(child)
    for _ in children:
        os.read(ready[0], 1)
    os.close(go[1])
    outcomes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for fd in (*ready, go[0]):
        os.close(fd)
    assert sorted(outcomes) == [0, *[7] * 7]


@pytest.mark.parametrize(
    ("node", "ttl", "allowed", "why"),
    [
        ("A", TTL, SHOP, "node name 'A'"),
        ("a", TTL, (), "allowed nothing"),
        ("a", timedelta(0), SHOP, "token life of 0 s"),
        ("a", timedelta(days=8), SHOP, "token life of 691200 s"),
        ("a", TTL, tuple(AllowPattern("a", f"x{number}") for number in range(101)), "at most 100"),
    ],
)
def test_token_that_makes_no_sense_is_refused(store, node, ttl, allowed, why):
    with pytest.raises(InvalidInput, match=why):
        store.create_token(node, ttl, allowed, NOW)
    assert store.tokens() == ()


def test_tokens_are_bounded_and_forgotten_after_a_month(store, monkeypatch):
    monkeypatch.setattr(membership, "MAX_TOKENS", 1)
    store.create_token("a", TTL, SHOP, NOW)
    with pytest.raises(InvalidInput, match="1 tokens are kept already"):
        store.create_token("b", TTL, SHOP, NOW)
    store.create_token("b", TTL, SHOP, NOW + 31 * DAY)
    assert [record.node for record in store.tokens()] == ["b"]


def test_revoked_node_gets_no_token_and_joins_with_none(store):
    text = store.create_token("a", TTL, SHOP, NOW)
    store.revoke(RevocationKind.NODE, "spiffe://cluster.local/node/a", "", NOW)
    assert refused(store.redeem_token, text, "a", NOW) is Code.NODE_REVOKED
    with pytest.raises(InvalidInput, match="is revoked"):
        store.create_token("a", TTL, SHOP, NOW)
    store.unrevoke("spiffe://cluster.local/node/a")
    store.redeem_token(text, "a", NOW)


def test_node_that_joins_again_is_allowed_what_the_new_token_says(joined):
    patterns = (AllowPattern.parse("ns/bank/sa/db"),)
    joined.redeem_token(joined.create_token("a", TTL, patterns, NOW), "a", NOW + TTL / 2)
    assert (joined.node("a").allowed, joined.node("a").joined_at) == (patterns, NOW + TTL / 2)


def test_node_added_without_a_token_stays_as_it_is(store):
    store.add_node("here", SHOP, NOW)
    store.add_node("here", (), NOW + DAY)
    assert (store.node("here").allowed, store.node("here").joined_at) == (SHOP, NOW)


def test_node_allowed_anew_and_removed(joined):
    patterns = (AllowPattern.parse("ns/bank/sa/db"),)
    joined.set_allowed("a", patterns)
    assert joined.node("a").allowed == patterns
    joined.remove_node("a")
    assert [record.name for record in joined.nodes()] == ["b"]
    for change in (lambda: joined.set_allowed("a", patterns), lambda: joined.remove_node("a")):
        with pytest.raises(InvalidInput, match="no node is called 'a'"):
            change()


def test_report_is_kept_and_its_workloads_are_in_the_registry(joined):
    joined.report("a", report(WEB), NOW + DAY)
    record = joined.node("a")
    assert (record.report, record.reported_at) == (report(WEB), NOW + DAY)
    assert joined.registry().workloads == (WEB,)


def test_registry_changes_its_version_only_when_it_changes(joined):
    versions = [(joined.version(), joined.registry().version)]
    for workloads in ((WEB,), (WEB,), ()):
        joined.report("a", report(*workloads), NOW)
        versions.append((joined.version(), joined.registry().version))
    assert versions[0] < versions[1] == versions[2] < versions[3]
    assert joined.registry().workloads == ()


def test_address_or_name_of_another_nodes_workload_is_refused_until_it_is_free(joined):
    joined.report("a", report(WEB), NOW)
    for stolen in (
        replace(WEB, node="b", name="other"),  # the same address
        replace(WEB, node="b", addresses=(ip_address("10.0.0.2"),)),  # the same name
    ):
        assert refused(joined.report, "b", report(stolen), NOW) is Code.ADDRESS_TAKEN
        assert joined.node("b").report == report(stolen)
        assert joined.registry().workloads == (WEB,)
    joined.report("a", report(), NOW)
    joined.report("b", report(stolen), NOW)
    assert joined.registry().workloads == (stolen,)


def test_link_local_addresses_may_be_the_same(joined):
    local = (ip_address("fe80::1"),)
    joined.report("a", report(replace(WEB, addresses=local)), NOW)
    joined.report("b", report(replace(WEB, node="b", name="other", addresses=local)), NOW)
    assert len(joined.registry().workloads) == 2


def test_workload_that_the_node_may_not_have_is_refused_and_not_in_the_registry(joined):
    foreign = replace(WEB, namespace="bank", name="db", addresses=())
    assert refused(joined.report, "a", report(WEB, foreign), NOW) is Code.IDENTITY_NOT_ON_NODE
    assert joined.registry().workloads == (WEB,)
    joined.set_allowed("a", (AllowPattern.parse("ns/*/sa/*"),))
    assert joined.registry().workloads == (foreign, WEB)


def test_report_of_another_nodes_workloads_or_of_a_stranger_changes_nothing(joined):
    before = joined.version()
    assert refused(joined.report, "b", report(WEB), NOW) is Code.REQUEST_MALFORMED
    assert refused(joined.report, "c", report(), NOW) is Code.NODE_NOT_AUTHORISED
    assert joined.version() == before


def test_workloads_of_a_removed_or_revoked_node_are_gone(joined):
    joined.report("a", report(WEB), NOW)
    joined.report("b", report(replace(WEB, node="b", name="other", addresses=())), NOW)
    joined.remove_node("a")
    assert [workload.node for workload in joined.registry().workloads] == ["b"]
    joined.revoke(RevocationKind.NODE, "spiffe://cluster.local/node/b", "", NOW)
    assert joined.registry().workloads == ()
    joined.unrevoke("spiffe://cluster.local/node/b")
    assert len(joined.registry().workloads) == 1
