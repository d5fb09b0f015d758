"""Join tokens: one spelling, and the secret in no message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.authority.tokens import Token
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
