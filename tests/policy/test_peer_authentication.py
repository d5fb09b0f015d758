"""A mode is one of three words, and nothing like it."""

import pytest

from interceptor.errors import InvalidInput
from interceptor.policy.peer_authentication import MtlsMode


@pytest.mark.parametrize("mode", MtlsMode)
def test_mode_word_parses(mode: MtlsMode) -> None:
    assert MtlsMode.parse(mode.value) is mode


@pytest.mark.parametrize("text", ["", "strict", "Strict", " STRICT", "UNSET", "DISABLED"])
def test_mode_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="use STRICT, PERMISSIVE or DISABLE"):
        MtlsMode.parse(text)
