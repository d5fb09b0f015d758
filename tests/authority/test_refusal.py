"""The set of refusals is closed, and each can be explained."""

import re

import pytest

from interceptor.authority.refusal import Code, Refused


@pytest.mark.parametrize("code", Code)
def test_code_value_is_its_name_and_has_status_and_sentence(code):
    assert code.value == code.name.lower() == str(code)
    assert Code(code.value) is code
    assert 400 <= code.status <= 503
    assert re.fullmatch(r"[a-zA-Z][^\n]+; [^\n]+[^.\n]", code.explanation)


def test_codes_are_the_documented_set():
    assert len(Code) == 29


def test_refusal_shows_its_code_first():
    refused = Refused(Code.TOKEN_USED, "token 1 was used")
    assert str(refused) == "token_used: token 1 was used"
    assert (refused.code, refused.message, refused.exit_status) == (Code.TOKEN_USED, "token 1 was used", 1)
