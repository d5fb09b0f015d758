"""The file of the return token: what is in it at each moment, and what it is worth when it is not whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from interceptor.agent.return_tokens import RETURN_FILE, ReturnTokens
from interceptor.authority.return_tokens import ReturnToken

if TYPE_CHECKING:
    from pathlib import Path


def on_disk(tmp_path: Path) -> tuple[str | None, str | None]:
    content = json.loads((tmp_path / RETURN_FILE).read_text())
    return content["present"], content["next"]


def test_next_token_is_on_the_disk_beside_the_present_one_until_the_answer(tmp_path: Path) -> None:
    tokens = ReturnTokens(tmp_path)
    assert tokens.present is None
    offered = tokens.offer()
    present, following = on_disk(tmp_path)
    assert present is None
    assert ReturnToken.parse(following or "").hash() == offered
    assert tokens.offer() == offered  # until there is an answer, it is the same
    tokens.taken()
    assert on_disk(tmp_path) == (following, None)
    assert tokens.present == following
    assert tokens.offer() != offered
    assert on_disk(tmp_path)[0] == following
    tokens.declined()
    assert on_disk(tmp_path) == (following, None)
    assert (tmp_path / RETURN_FILE).stat().st_mode & 0o777 == 0o600


def test_next_agent_finds_both(tmp_path: Path) -> None:
    tokens = ReturnTokens(tmp_path)
    first = tokens.offer()
    again = ReturnTokens(tmp_path)  # the answer to an operator's token was never heard
    assert again.present is not None
    assert ReturnToken.parse(again.present).hash() == first
    second = again.offer()
    third = ReturnTokens(tmp_path)
    assert third.present == again.present
    assert third.offer() == second


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"present": 1, "next": null}', b'{"present": "ir1.x"}', b"[" * 100_000]
)
def test_file_that_is_not_whole_is_no_token(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RETURN_FILE).write_bytes(content)
    assert ReturnTokens(tmp_path).present is None


def test_token_that_cannot_be_kept_is_not_offered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = ReturnTokens(tmp_path)
    blocked = tmp_path / f".{RETURN_FILE}.new"
    blocked.mkdir()
    assert [tokens.offer(), tokens.offer()] == ["", ""]
    assert tokens.problem is not None
    assert len(caplog.records) == 1
    blocked.rmdir()
    assert tokens.offer()
    assert tokens.problem is None


def test_nothing_is_left_of_a_token_that_is_removed(tmp_path: Path) -> None:
    tokens = ReturnTokens(tmp_path)
    tokens.offer()
    tokens.remove()
    tokens.remove()
    assert tokens.present is None
    assert list(tmp_path.iterdir()) == []
