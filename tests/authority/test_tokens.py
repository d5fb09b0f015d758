"""Join tokens: one spelling, and the secret in no message."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.authority.admission import AllowPattern
from interceptor.authority.refusal import Code, Refused
from interceptor.authority.tokens import (
    MAX_POD_TOKEN,
    PodToken,
    Token,
    TokenRecord,
    check_token,
    root_of_token,
)
from interceptor.errors import InvalidInput

TOKEN = Token("ab" * 32, "cd" * 8, bytes(range(32)))


@given(st.binary(min_size=32, max_size=32))
def test_token_printed_and_parsed_is_the_same(secret):
    token = Token("0" * 64, "1" * 16, secret)
    assert Token.parse(token.text()) == token


def test_token_shows_its_secret_nowhere_but_in_its_text():
    secret = TOKEN.text().rpartition(".")[2]
    assert secret not in repr(TOKEN)
    assert "secret" not in repr(TOKEN)
    assert len(TOKEN.secret_hash()) == 64
    assert TOKEN.secret.hex() not in TOKEN.secret_hash()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "it1",
        TOKEN.text()[:-1],
        f"{TOKEN.text()}A",
        f"{TOKEN.text()}\n",
        TOKEN.text().replace("it1", "it2"),
        TOKEN.text().upper(),
        TOKEN.text().replace(".", "/"),
        f"it1.{'ab' * 32}.{'cd' * 8}.{'+' * 43}",
    ],
)
def test_token_that_is_none_is_refused_and_not_shown(text):
    with pytest.raises(InvalidInput, match=r"^this is not a join token") as caught:
        Token.parse(text)
    assert len(text) < 9 or text not in str(caught.value)
    assert str(caught.value).isprintable()


def test_token_with_other_spelling_of_the_same_secret_is_refused():
    # 43 base64 digits hold 258 bits: the last digit has two that say nothing.
    text = TOKEN.text()
    other = text[:-1] + chr(ord(text[-1]) + 1)
    with pytest.raises(InvalidInput):
        Token.parse(other)


def test_token_with_a_short_secret_is_refused():
    with pytest.raises(InvalidInput, match="not a join token"):
        Token("ab" * 32, "cd" * 8, b"short")


@pytest.fixture
def record(now):
    patterns = (AllowPattern.parse("ns/shop/sa/*"),)
    hour = timedelta(hours=1)
    return TokenRecord(TOKEN.id, TOKEN.secret_hash(), "a", patterns, now, now + hour, None)


def test_token_that_is_kept_is_accepted_for_its_node_in_time(record, now):
    assert check_token(TOKEN, record, "a", now) is record
    assert check_token(TOKEN, record, "a", record.expires_at - timedelta(microseconds=1)) is record
    assert record.secret_hash not in repr(record)


def test_token_that_is_not_to_be_accepted_is_refused_with_its_own_code(record, now):
    used = replace(record, used_at=now)
    for token, kept, node, at, code in (
        (TOKEN, None, "a", now, Code.TOKEN_INVALID),
        (replace(TOKEN, secret=bytes(32)), record, "a", now, Code.TOKEN_INVALID),
        (replace(TOKEN, secret=bytes(32)), used, "a", now, Code.TOKEN_INVALID),
        (TOKEN, used, "a", now, Code.TOKEN_USED),
        (TOKEN, record, "a", record.expires_at, Code.TOKEN_EXPIRED),
        (TOKEN, record, "b", now, Code.TOKEN_FOR_OTHER_NODE),
    ):
        with pytest.raises(Refused) as caught:
            check_token(token, kept, node, at)
        assert caught.value.code is code


def test_token_state_is_one_word(record, now):
    assert record.state(now) == "unused"
    assert record.state(record.expires_at) == "expired"
    assert replace(record, used_at=now).state(record.expires_at) == "used"


FINGERPRINT = "ab" * 32


def test_token_of_a_pod_is_taken_apart_and_its_root_found_as_that_of_ours():
    token = PodToken.parse(f"ip1.{FINGERPRINT}.head.body-_.signature")
    assert (token.root_fingerprint, token.secret) == (FINGERPRINT, "head.body-_.signature")
    assert PodToken.is_meant(f"ip1.{FINGERPRINT}.x")
    assert not PodToken.is_meant(TOKEN.text())
    assert root_of_token(f"ip1.{FINGERPRINT}.x") == root_of_token(TOKEN.text()) == FINGERPRINT


@pytest.mark.parametrize(
    "text",
    [
        "ip1.",
        f"ip1.{FINGERPRINT}.",
        f"ip1.{FINGERPRINT}",
        f"ip1.{FINGERPRINT[1:]}.secret",
        f"ip1.{FINGERPRINT}.secret\n",
        f"ip1.{FINGERPRINT}.sec ret",
        f"ip1.{FINGERPRINT}." + "s" * (MAX_POD_TOKEN + 1),
    ],
)
def test_text_that_is_no_token_of_a_pod_is_refused_and_not_shown(text):
    with pytest.raises(InvalidInput) as caught:
        root_of_token(text)
    assert "not the token of a pod" in str(caught.value)
    assert "secret" not in str(caught.value)
