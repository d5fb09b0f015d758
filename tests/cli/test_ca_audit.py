"""What operators do to an authority leaves lines in the file of its service, written before anything is changed."""

from __future__ import annotations

import json
import os
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from interceptor.authority_store import AuthorityStore
from tests.cli.test_ca import ALLOW, Authority
from tests.harness.process import CLI, run

if TYPE_CHECKING:
    from pathlib import Path

WEB = "spiffe://prod.example/ns/shop/sa/web"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "authority")
    authority.ok("init", "--trust-domain", "prod.example")
    return authority


def audit(authority: Authority) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (authority.directory / "audit.jsonl").read_text().splitlines()]


def unwritable(authority: Authority) -> None:
    """A directory stands where the file should be: root may write everything else."""
    (authority.directory / "audit.jsonl").unlink(missing_ok=True)
    (authority.directory / "audit.jsonl").mkdir()


def test_authority_begins_with_the_line_of_who_made_it(authority: Authority) -> None:
    (line,) = audit(authority)
    assert (line["event"], line["request"]) == ("command_done", "ca init")
    assert line["values"] == {"trust_domain": "prod.example", "encrypted": False}
    assert (authority.directory / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_every_command_that_changes_something_is_noted_before_and_after(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    other.ok("init", "--trust-domain", "other.example")
    (tmp_path / "other.pem").write_text(other.ok("bundle"))
    token = authority.ok("token", "create", "--node", "a", *ALLOW).strip()
    with closing(AuthorityStore.open(authority.directory, None)) as store:
        store.redeem_token(token, "a", datetime.now(UTC))
    changes = (
        ("node", "allow", "a", *ALLOW),
        ("node", "remove", "a"),
        ("revoke", WEB, "--why", "key copied"),
        ("unrevoke", WEB),
        ("federate", str(tmp_path / "other.pem")),
        ("unfederate", "other.example"),
        ("alias", "old.example"),
        ("unalias", "old.example"),
        ("rotate", "prepare"),
        ("rotate", "distribute"),
        ("rotate", "activate"),
        ("rotate", "retire"),
        ("rotate", "prepare"),
        ("rotate", "abort"),
        ("rotate", "intermediate"),
    )
    for change in changes:
        authority.ok(*change)
    for read_only in ("status", "nodes", "revocations", "rotate status", "token list", "bundle"):
        authority.ok(*read_only.split())
    lines = audit(authority)[1:]
    noted = [(line["event"], line["request"]) for line in lines]
    two_words = {"node", "token", "rotate"}
    commands = ["ca token create"] + [
        f"ca {' '.join(each[:2] if each[0] in two_words else each[:1])}" for each in changes
    ]
    assert noted == [(event, each) for each in commands for event in ("command_begun", "command_done")]
    assert lines[5]["values"] == {"node": "a"}
    assert lines[6]["values"] == {"kind": "identity", "value": WEB, "why": "key copied"}
    text = (authority.directory / "audit.jsonl").read_text()
    assert token.rpartition(".")[2] not in text
    assert lines[1]["result"] == {"id": token.split(".")[2]}
    assert "PRIVATE" not in text


def test_line_says_who_ran_the_command(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice\n" + "x" * 100)
    authority.ok("alias", "old.example")
    by = audit(authority)[-1]["by"]
    assert list(by) == ["uid", "user", "login", "sudo_user"]
    assert (by["uid"], by["user"]) == (os.getuid(), "root")
    assert by["sudo_user"] == "alice\n" + "x" * 58


def test_change_that_is_refused_is_noted_with_the_reason(authority: Authority) -> None:
    said = authority.refused("rotate", "retire")
    begun, failed = audit(authority)[-2:]
    assert (begun["event"], failed["event"]) == ("command_begun", "command_failed")
    assert failed["error"] == said.removeprefix("interceptor: ")


@pytest.mark.parametrize(
    "change",
    [
        ("token", "create", "--node", "a", *ALLOW),
        ("alias", "old.example"),
        ("rotate", "prepare"),
        ("rotate", "intermediate"),
        ("unrevoke", WEB),
    ],
)
def test_change_that_cannot_be_noted_is_not_made(authority: Authority, change: tuple[str, ...]) -> None:
    authority.ok("revoke", WEB)
    before = authority.data("status")
    unwritable(authority)
    said = authority.refused(*change)
    assert "cannot write the audit file" in said
    assert "nothing was changed" in said
    assert authority.data("status") == before


def test_revocation_that_cannot_be_noted_is_made_and_says_so(authority: Authority) -> None:
    unwritable(authority)
    result = authority.run("revoke", WEB).check()
    assert result.stdout == f"identity {WEB} is revoked\n"
    (warning,) = result.stderr.splitlines()
    assert "the change was made, but it is not in the audit file" in warning
    assert [row["value"] for row in authority.data("revocations")] == [WEB]


def test_commands_write_where_the_service_was_told_to(authority: Authority, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.jsonl"
    with closing(AuthorityStore.open(authority.directory, None)) as store:
        store.keep_audit_path(elsewhere)
        authority.ok("alias", "old.example")
        assert len(elsewhere.read_text().splitlines()) == 2
        store.keep_audit_path(None)
    authority.ok("unalias", "old.example")
    assert len(elsewhere.read_text().splitlines()) == 2
    assert audit(authority)[-1]["request"] == "ca unalias"


def test_disk_that_is_full_refuses_the_change_in_one_line(authority: Authority) -> None:
    """In a process of its own, whose files cannot grow."""
    arguments = [CLI, "ca", "alias", "old.example", "--dir", str(authority.directory)]
    result = run(["prlimit", "--fsize=0", *map(str, arguments)])
    assert result.status == 1
    (line,) = result.stderr.splitlines()
    assert "cannot write the audit file" in line
    assert authority.data("status")["aliases"] == []
