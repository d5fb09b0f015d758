"""With which return token a node comes back, and what it is told otherwise."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from interceptor.authority.refusal import Code, Refused
from interceptor.authority.return_tokens import (
    ReturnRecord,
    ReturnToken,
    check_return,
    validate_offer,
)
from interceptor.errors import InvalidInput

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
PERIOD = timedelta(hours=96)
LIVE = ReturnRecord("node-a", NOW)
OVER = replace(LIVE, ended_at=NOW, successor="ab" * 32)
TOKEN = ReturnToken(bytes(range(32)))


def refusal(record, node="node-a", now=NOW, *, period=PERIOD, successor_offered=False):
    with pytest.raises(Refused) as caught:
        check_return(record, node, now, period=period, successor_offered=successor_offered)
    return caught.value


def test_token_is_its_text_and_is_in_no_repr():
    assert ReturnToken.parse(TOKEN.text()) == TOKEN
    assert ReturnToken.is_meant(TOKEN.text())
    assert not ReturnToken.is_meant("it1.x")
    assert TOKEN.text().startswith("ir1.")
    assert TOKEN.text()[4:] not in repr(TOKEN)
    assert TOKEN.hash() != ReturnToken(bytes(32)).hash()


@pytest.mark.parametrize(
    "text", ["", "ir1.", "ir1." + "A" * 42, "ir1." + "A" * 44, "ir1." + "A" * 42 + "B", "it1." + "A" * 43]
)
def test_text_that_is_no_token_is_refused_and_not_shown(text):
    with pytest.raises(InvalidInput, match=r"expected one such as ir1\.<secret>") as caught:
        ReturnToken.parse(text)
    assert "AAAA" not in str(caught.value)


def test_offer_is_a_hash_or_nothing():
    assert validate_offer("") == ""
    assert validate_offer(TOKEN.hash()) == TOKEN.hash()
    for wrong in ("x", "AB" * 32, "ab" * 33):
        with pytest.raises(InvalidInput, match="no hash of a return token"):
            validate_offer(wrong)


def test_live_token_lets_its_node_in_until_its_period_is_over():
    check_return(LIVE, "node-a", NOW + PERIOD - timedelta(seconds=1), period=PERIOD, successor_offered=False)
    refused = refusal(LIVE, now=NOW + PERIOD)
    assert refused.code is Code.RETURN_TOKEN_EXPIRED
    assert "from 2026-03-04T05:06:07Z, nodes may return within 96 h" in refused.message


def test_token_of_nobody_or_of_another_node_is_refused():
    assert refusal(None).code is Code.RETURN_TOKEN_UNKNOWN
    assert refusal(LIVE, "node-b").code is Code.TOKEN_FOR_OTHER_NODE


def test_token_that_is_over_says_what_became_of_it():
    used, replaced = refusal(replace(OVER, is_used=True)), refusal(OVER)
    assert used.code is Code.RETURN_TOKEN_USED
    assert "was used at 2026-03-04T05:06:07Z" in used.message
    assert replaced.code is Code.RETURN_TOKEN_REPLACED
    assert "was replaced by a newer one at 2026-03-04T05:06:07Z" in replaced.message
    # That somebody used it is said also when it would be too old by now.
    assert refusal(replace(OVER, is_used=True), now=NOW + 2 * PERIOD).code is Code.RETURN_TOKEN_USED


@pytest.mark.parametrize("is_used", [True, False])
def test_node_that_did_not_hear_the_answer_is_told_to_take_its_next_token(is_used):
    refused = refusal(replace(OVER, is_used=is_used), successor_offered=True)
    assert refused.code is Code.RETURN_TOKEN_ADVANCED
