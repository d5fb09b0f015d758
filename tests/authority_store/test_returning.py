"""Return tokens in the database: one of each node is live, and used once, whoever tries and whatever is killed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from interceptor.authority.admission import AllowPattern
from interceptor.authority.refusal import Code, Refused
from interceptor.authority.return_tokens import ReturnToken
from interceptor.authority_store import AuthorityStore, returning
from interceptor.authority_store.returning import REMEMBERED
from interceptor.errors import StateError
from interceptor.identity.revocation import RevocationKind
from tests.authority_store.helpers import DAY, DOMAIN, NOW, full_disk, killed_at

A = "node-a"
ANYTHING = (AllowPattern("*", "*"),)
PERIOD = timedelta(hours=96)
FIRST, SECOND, THIRD = (ReturnToken(bytes([number]) * 32) for number in (1, 2, 3))


@pytest.fixture
def store(home):
    with closing(AuthorityStore.create(home, DOMAIN, NOW)) as store:
        token = store.create_token(A, timedelta(minutes=1), ANYTHING, NOW)
        assert store.redeem_token(token, A, NOW, FIRST.hash())
        yield store


def back(store, token, offered="", node=A, now=NOW):
    return store.redeem_return(token.text(), node, offered and offered.hash(), PERIOD, now)


def refusal(store, token, offered="", node=A, now=NOW):
    before = (store.nodes(), store.version())
    with pytest.raises(Refused) as caught:
        back(store, token, offered, node, now)
    assert (store.nodes(), store.version()) == before
    return caught.value.code


def test_node_comes_back_once_and_may_do_what_it_might_before(store):
    later = NOW + DAY
    assert back(store, FIRST, SECOND, now=later)
    node = store.node(A)
    assert (node.allowed, node.joined_at) == (ANYTHING, later)
    assert refusal(store, FIRST, THIRD) is Code.RETURN_TOKEN_USED
    assert back(store, SECOND, THIRD)


def test_nothing_is_kept_of_a_token_but_its_hash(home, store):
    back(store, FIRST, SECOND)
    content = (home / "authority.db").read_bytes()
    for token in (FIRST, SECOND):
        assert token.hash().encode() in content
        assert token.secret not in content
        assert token.text()[4:].encode() not in content


def test_token_is_replaced_by_the_next_one_as_often_as_that_is_asked(store):
    for _ in range(2):
        assert store.offer_return(A, SECOND.hash(), NOW)
    assert refusal(store, FIRST, THIRD) is Code.RETURN_TOKEN_REPLACED
    assert not store.offer_return(A, FIRST.hash(), NOW)
    assert back(store, SECOND, THIRD)
    assert refusal(store, SECOND) is Code.RETURN_TOKEN_USED


def test_token_that_was_offered_again_counts_from_then(store):
    store.offer_return(A, FIRST.hash(), NOW + 3 * DAY)
    assert back(store, FIRST, SECOND, now=NOW + 6 * DAY)


def test_answer_that_was_lost_leads_to_the_next_token_for_whoever_offered_it(store):
    back(store, FIRST, SECOND)
    assert refusal(store, FIRST, SECOND) is Code.RETURN_TOKEN_ADVANCED
    assert refusal(store, FIRST, THIRD) is Code.RETURN_TOKEN_USED  # a thief knows nothing of the second
    back(store, SECOND, THIRD)
    assert refusal(store, FIRST, SECOND) is Code.RETURN_TOKEN_USED  # that one is over too
    assert refusal(store, FIRST, THIRD) is Code.RETURN_TOKEN_USED  # and this one did not take its place


def test_token_of_another_node_and_of_none_is_refused(store):
    assert refusal(store, FIRST, node="node-b") is Code.TOKEN_FOR_OTHER_NODE
    assert refusal(store, THIRD) is Code.RETURN_TOKEN_UNKNOWN
    with pytest.raises(Refused, match="return_token_unknown"):
        store.redeem_return("ir1.short", A, "", PERIOD, NOW)


def test_node_that_offers_what_is_over_is_left_without_one(store):
    assert not back(store, FIRST, FIRST)
    assert refusal(store, FIRST) is Code.RETURN_TOKEN_USED


def test_removed_node_does_not_come_back(store):
    store.remove_node(A)
    assert store.return_token(FIRST.hash()) is None
    assert refusal(store, FIRST) is Code.RETURN_TOKEN_UNKNOWN
    assert not store.offer_return(A, SECOND.hash(), NOW)


def test_revoked_node_does_not_come_back_nor_once_that_is_taken_back(store):
    name = f"spiffe://{DOMAIN}/node/{A}"
    store.revoke(RevocationKind.NODE, name, "stolen", NOW)
    assert refusal(store, FIRST) is Code.NODE_REVOKED
    assert not store.offer_return(A, SECOND.hash(), NOW)
    store.unrevoke(name)
    assert refusal(store, FIRST) is Code.RETURN_TOKEN_UNKNOWN
    assert store.offer_return(A, SECOND.hash(), NOW)


def test_node_that_proves_itself_otherwise_has_no_return_token(store):
    store.let_in(A, ANYTHING, NOW)
    assert store.return_token(FIRST.hash()) is None
    assert refusal(store, FIRST) is Code.RETURN_TOKEN_UNKNOWN
    assert not store.offer_return(A, SECOND.hash(), NOW)
    token = store.create_token(A, timedelta(minutes=1), ANYTHING, NOW)
    assert store.redeem_token(token, A, NOW, THIRD.hash())
    assert back(store, THIRD, SECOND)


def test_operators_token_ends_the_return_token(store):
    token = store.create_token(A, timedelta(minutes=1), ANYTHING, NOW)
    assert not store.redeem_token(token, A, NOW)
    assert refusal(store, FIRST) is Code.RETURN_TOKEN_REPLACED


def test_tokens_that_are_over_are_remembered_to_a_number(home, store):
    for number in range(2 * REMEMBERED):
        store.offer_return(A, f"{number:064x}", NOW + timedelta(seconds=number))
    with closing(sqlite3.connect(home / "authority.db")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM return_tokens").fetchone()
    assert count == REMEMBERED + 1
    assert store.return_token(FIRST.hash()) is None
    assert store.return_token(f"{2 * REMEMBERED - 1:064x}").ended_at is None


def test_of_processes_that_use_one_token_at_the_same_instant_one_succeeds(home, store):
    children = []
    for number in range(6):
        child = os.fork()
        if child == 0:
            with closing(AuthorityStore.open(home, None)) as own:
                try:
                    own.redeem_return(FIRST.text(), A, f"{number:064x}", PERIOD, NOW)
                    os._exit(0)
                except Refused as refused:
                    os._exit(1 if refused.code is Code.RETURN_TOKEN_USED else 2)
        children.append(child)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes == [0, 1, 1, 1, 1, 1]


class Answer:
    """What comes after the transaction."""

    @staticmethod
    def send():
        pass


def test_authority_that_is_killed_at_any_moment_leaves_one_token_of_the_two(home, store):
    """The node asks again with the same two: it is let in, or told that it was, and never that somebody else was."""
    moments = [(returning, name) for name in ("read_return_token", "replace_return_token")]
    moments += [(returning, "raise_registry_version"), (Answer, "send")]
    step, found, tokens = 0, [], [FIRST, SECOND]

    def use():
        back(AuthorityStore.open(home, None), *tokens)
        Answer.send()

    while killed_at(step, use, also=moments):
        try:
            back(store, *tokens)
            found.append("let in")
        except Refused as refused:
            found.append(refused.code.value)
        tokens = [tokens[1], ReturnToken(os.urandom(32))]
        step += 1
    assert set(found[:-1]) == {"let in"}
    assert found[-1] == "return_token_advanced"
    assert len(found) > len(moments)
    assert refusal(store, *tokens) is Code.RETURN_TOKEN_ADVANCED


def test_disk_that_is_full_uses_no_token_up(store):
    with full_disk(), pytest.raises(StateError):
        back(store, FIRST, SECOND)
    assert back(store, FIRST, SECOND)
