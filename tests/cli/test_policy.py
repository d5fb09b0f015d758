"""`policy check` needs no agent; what is wrong is one line for each file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from interceptor.admin import AnsweredError
from interceptor.cli.context import Session
from interceptor.cli.policy import apply, check, simulate
from interceptor.errors import AgentError, PolicyError, UsageError
from tests.policy.world import authorization

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


class Talking(Session):
    """A session whose agent answers, or does not."""

    def __init__(self, answer: object) -> None:
        super().__init__(None)
        self.answer = answer
        self.asked: dict[str, object] = {}

    def ask(self, command: str, *, seconds: float = 1, **arguments: object) -> Any:
        self.asked = {"command": command, **arguments}
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(authorization("a") + authorization("b"))
    return path


def invoke(command: Any, answer: object, *arguments: object) -> str:
    result = CliRunner().invoke(
        command, [str(each) for each in arguments], obj=Talking(answer), catch_exceptions=False
    )
    assert result.exit_code == 0
    return result.stdout


def test_check_without_an_agent_says_so(good: Path) -> None:
    shown = invoke(check, AgentError("no agent is running"), good)
    assert shown == "2 documents are valid; nobody was asked whom they select: no agent is running\n"


def test_check_shows_what_the_agent_warns_of(good: Path) -> None:
    shown = invoke(check, {"warnings": ["a: matches nobody"]}, good)
    assert shown == "warning: a: matches nobody\n2 documents are valid\n"


def test_check_fails_when_the_agent_refuses_the_whole_set(good: Path) -> None:
    with pytest.raises(AnsweredError, match="is there twice"):
        invoke(check, AnsweredError("a is there twice", 1), good)


def test_check_tells_of_each_broken_file(good: Path, tmp_path: Path) -> None:
    broken, worse = tmp_path / "broken.yaml", tmp_path / "worse.yaml"
    broken.write_text("[")
    worse.write_text("kind: x\n")
    result = CliRunner().invoke(check, [str(good), str(broken), str(worse)], obj=Talking(None))
    assert isinstance(result.exception, PolicyError)
    assert str(result.exception).startswith(f"{broken}:2:1: ")
    assert result.stderr.startswith(f"interceptor: {worse}:1:1: ")


@pytest.mark.parametrize("name", ["notes.txt", ".hidden.yaml"])
def test_file_of_another_kind_is_wrong_usage(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"does not end with \.yaml or \.yml"):
        invoke(check, None, tmp_path / name)


def test_file_that_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        invoke(check, None, tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is not UTF-8, at byte 0"):
        invoke(check, None, tmp_path / "binary.yaml")


@pytest.mark.parametrize("command", [simulate, apply])
def test_broken_file_is_named_as_it_was_given(command: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("kind: x\n")
    session = Talking(AnsweredError("the agent was asked", 1))
    result = CliRunner().invoke(command, [str(broken)], obj=session)
    assert isinstance(result.exception, PolicyError)
    assert str(result.exception).startswith(f"{broken}:1:1: ")


def test_simulate_says_when_nothing_would_change(good: Path) -> None:
    answer = {"connections": 7, "changes": [], "not_remembered_before": None}
    assert invoke(simulate, answer, good) == "no verdict would change, of 7 connections\n"
    shown = invoke(simulate, {**answer, "not_remembered_before": "2027-01-15T08:00:00+00:00"}, good)
    assert "those before 2027-01-15T08:00:00+00:00 are not remembered, and were not asked about" in shown


def test_apply_says_whom_it_cut_off_and_who_asked(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "maria")
    session = Talking({"documents": 2, "connections_closed": 1, "cut_off": ["x -> y"], "warnings": ["w"]})
    result = CliRunner().invoke(apply, [str(good), "--force"], obj=session, catch_exceptions=False)
    assert result.stdout == (
        "warning: w\ncut off: x -> y\n2 documents are in force, 1 connections were closed\n"
    )
    assert session.asked == {
        "command": "policy_apply",
        "files": [str(good)],
        "force": True,
        "by": "uid 0 (sudo by maria)",
    }
