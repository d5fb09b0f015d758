"""Formats and colour: what programs get is complete and stable, and colour is for terminals alone."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from interceptor.cli import output
from interceptor.cli.connections import connections, not_yet_shown
from interceptor.cli.context import Session
from interceptor.cli.explain import explain
from interceptor.cli.main import group
from interceptor.cli.nouns import certificates, workloads
from interceptor.cli.policy import policies
from interceptor.cli.status import status

LONG = "a-name-that-is-as-long-as-a-kubernetes-name-may-be-63-characters"[:63]

WORKLOAD = {
    "name": LONG,
    "namespace": LONG,
    "identity": f"spiffe://cluster.local/ns/{LONG}/sa/{LONG}",
    "addresses": ["10.215.0.2", "fd15:8::2"],
    "state": "degraded",
    "problems": ["it has no certificate"],
    "connections": 3,
    "pid": None,
}
CONNECTION = {
    "id": "1",
    "time": "2026-01-02T03:04:05.678Z",
    "direction": "outbound",
    "source_address": "[fd15:8::3]:40000",
    "source_workload": LONG,
    "source_namespace": LONG,
    "source_identity": WORKLOAD["identity"],
    "destination_address": "10.215.0.2:80",
    "destination_workload": None,
    "destination_namespace": None,
    "destination_identity": None,
    "bytes_sent": 1500,
    "bytes_received": 0,
    "duration_ms": 1.5,
    "verdict": "denial",
    "reason": "peer_certificate_not_yet_valid",
    "connection_security_policy": "unknown",
    "tls_version": None,
    "state": "closed",
}
POD = {
    "namespace": LONG,
    "name": LONG,
    "uid": "u",
    "identity": WORKLOAD["identity"],
    "state": "degraded",
    "reason": "CertificateNotYetValid",
    "message": "its certificate is not valid yet",
    "since": "2026-11-24T12:00:00Z",
    "certificate_not_after": "2099-11-24T12:00:00+00:00",
    "listeners": [15001, 15006, 15008],
    "is_told": True,
}
NODE: dict[str, Any] = {"node": "node-1", "ready": True, "waiting_for": [], "pods": [POD]}
CERTIFICATE = {
    "workload": LONG,
    "namespace": LONG,
    "identity": WORKLOAD["identity"],
    "state": "missing",
    "serial_number": None,
    "remaining_seconds": None,
    "remaining_fraction": None,
    "renew_at": None,
    "issued": 0,
    "last_error": "the authority cannot issue",
}
STATUS = {
    "version": "0.1.0",
    "pid": 1,
    "node": "n",
    "trust_domain": "cluster.local",
    "mode": "STRICT",
    "mesh_cidrs": ["10.215.0.0/16"],
    "started_at": "2026-01-02T03:04:05+00:00",
    "authority": {"address": None, "trust_bundle_age_seconds": 1.5, "last_error": None},
    "authority_not_after": "2036-01-02T03:04:05+00:00",
    "metrics_address": "127.0.0.1:15020",
    "state": "ready",
    "waiting_for": [],
    "problems": [],
    "policies": 1,
    "policy_warnings": ["LegacyException shop/old: ends at 2026-02-01, ops should see to it"],
    "workloads": 2,
    "degraded_workloads": [],
    "draining": [],
    "connections_open": 0,
    "kernel_counters": {"captured_ipv4": 1, "captured_ipv6": 2, "refused_mptcp": 0},
}
EXPLANATION = {
    "source": "default/client",
    "destination": "10.215.0.2:80",
    "verdict": "denial",
    "transport": None,
    "reason": "unknown_destination",
    "steps": [{"step": "outbound policy", "ok": False, "evidence": "no " * 80}],
}


POLICIES = {
    "directory": "/etc/interceptor/policies",
    "state": "ready",
    "error": None,
    "loaded_at": "2026-01-02T03:04:05+00:00",
    "root_namespace": "istio-system",
    "mode": "STRICT",
    "warnings": ["AuthorizationPolicy shop/a: x/y matches no enrolled workload"],
    "documents": [
        {
            "kind": "LegacyException",
            "namespace": LONG,
            "name": LONG,
            "selector": "app=web",
            "file": "/etc/interceptor/policies/a.yaml",
            "line": 1,
            "effect": "plaintext inbound until 2026-02-01",
            "workloads": 2,
            "reason": "speaks no TLS",
            "owner": "ops",
            "expires": "2026-02-01T00:00:00+00:00",
            "used": 3,
        }
    ],
}


class Answering(Session):
    """A session whose agent gives one answer."""

    def __init__(self, answer: object) -> None:
        super().__init__(None)
        self.answer = answer
        self.asked: dict[str, object] = {}

    def ask(self, command: str, *, seconds: float = 1, **arguments: object) -> Any:
        self.asked = {"command": command, **arguments}
        return self.answer


def invoke(command: Any, answer: object, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, obj=Answering(answer), catch_exceptions=False)


@pytest.mark.parametrize(
    ("command", "answer", "arguments"),
    [
        (workloads, [WORKLOAD], ()),
        (connections, [CONNECTION], ()),
        (certificates, [CERTIFICATE], ()),
        (status, STATUS, ()),
        (status, NODE, ("--node",)),
        (explain, EXPLANATION, ("client", "10.215.0.2:80")),
        (policies, POLICIES, ()),
    ],
    ids=["workloads", "connections", "certificates", "status", "node", "explain", "policies"],
)
class TestEveryNoun:
    def test_json_is_the_whole_answer(self, command: Any, answer: object, arguments: tuple[str, ...]) -> None:
        assert json.loads(invoke(command, answer, *arguments, "-o", "json").stdout) == answer

    def test_yaml_is_the_whole_answer(self, command: Any, answer: object, arguments: tuple[str, ...]) -> None:
        assert yaml.safe_load(invoke(command, answer, *arguments, "-o", "yaml").stdout) == answer

    def test_table_fits_the_line(self, command: Any, answer: object, arguments: tuple[str, ...]) -> None:
        lines = invoke(command, answer, *arguments).stdout.splitlines()
        table = [line for line in lines if not line.startswith(f"{LONG}/{LONG}: ")]  # a problem, in full
        assert table
        assert max(map(len, table)) < 110

    def test_output_that_is_no_terminal_has_no_colour(
        self, command: Any, answer: object, arguments: tuple[str, ...]
    ) -> None:
        assert "\x1b" not in invoke(command, answer, *arguments).stdout


@pytest.mark.parametrize("command", [workloads, connections, certificates])
def test_empty_list_is_said_in_words_and_is_a_list_in_json(command: Any) -> None:
    assert invoke(command, []).stdout.count("\n") == 1
    assert json.loads(invoke(command, [], "-o", "json").stdout) == []


@pytest.mark.parametrize(
    ("state", "kept"), [("refused", "those above stay in force"), ("pending", "everything is denied")]
)
def test_policies_that_were_refused_are_said_and_fail(state: str, kept: str) -> None:
    result = invoke(policies, {**POLICIES, "state": state, "error": "a.yaml:1:1: broken"})
    assert result.exit_code == 1
    assert f"refused, {kept}: a.yaml:1:1: broken" in result.stdout


def test_no_policies_are_said_in_words() -> None:
    assert "mode STRICT is all that holds" in invoke(policies, {**POLICIES, "documents": []}).stdout


def test_explain_takes_two_ends_or_a_connection() -> None:
    session = Answering(EXPLANATION)
    CliRunner().invoke(explain, ("--connection", "c1"), obj=session, catch_exceptions=False)
    assert session.asked == {"command": "explain", "connection": "c1"}
    for wrong in ((), ("a",), ("a", "b:1", "--connection", "c1")):
        assert CliRunner().invoke(explain, wrong, obj=session).exit_code == 2


def test_problem_of_a_workload_is_below_the_table() -> None:
    assert f"{LONG}/{LONG}: it has no certificate" in invoke(workloads, [WORKLOAD]).stdout


def test_failed_renewal_is_below_the_table() -> None:
    assert "the last renewal failed: the authority cannot issue" in invoke(certificates, [CERTIFICATE]).stdout


def test_certificate_that_is_late_has_the_colour_of_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "is_colourful", lambda: True)
    late = {**CERTIFICATE, "state": "late", "remaining_seconds": 3600, "remaining_fraction": 0.2}
    result = CliRunner().invoke(certificates, [], obj=Answering([late]), color=True)
    assert "\x1b[33mlate" in result.stdout
    assert " 20% " in result.stdout


@pytest.mark.parametrize(
    ("authority", "ends", "shown"),
    [
        (
            {"address": "192.0.2.1:15012", "trust_bundle_age_seconds": 90.0, "last_error": "it went away"},
            None,
            "authority    at 192.0.2.1:15012, heard from 1m 30s ago; it went away",
        ),
        (
            {"address": None, "trust_bundle_age_seconds": None, "last_error": None},
            None,
            "authority    embedded",
        ),
    ],
)
def test_status_says_where_the_authority_is_and_whether_it_answers(
    authority: dict[str, object], ends: str | None, shown: str
) -> None:
    answer = {**STATUS, "authority": authority, "authority_not_after": ends}
    assert shown in invoke(status, answer).stdout.splitlines()


def test_connection_of_somebody_unknown_shows_the_address() -> None:
    row = {**CONNECTION, "source_workload": None, "source_identity": None}
    line = invoke(connections, [row]).stdout.splitlines()[1]
    assert line.split()[:5] == ["03:04:05", "out", "fd15:8::3".join("[]"), "10.215.0.2:80", "-"]


@pytest.mark.parametrize(("state", "exit_status"), [("ready", 0), ("degraded", 1), ("starting", 1)])
@pytest.mark.parametrize("fmt", ["table", "json"])
def test_status_that_is_not_ready_fails(state: str, exit_status: int, fmt: str) -> None:
    problems = [] if state == "ready" else ["default/web: it has no certificate"]
    result = invoke(status, {**STATUS, "state": state, "problems": problems}, "-o", fmt)
    assert result.exit_code == exit_status
    assert all(problem in result.stdout for problem in problems)


@pytest.mark.parametrize(
    ("state", "waiting", "exit_status"),
    [
        ("enrolled", [], 0),
        ("outside", [], 0),
        ("draining", [], 0),
        ("waiting", [], 1),
        ("degraded", [], 1),
        ("enrolled", ["joining the authority: it is away"], 1),
    ],
)
def test_node_is_well_when_its_pods_are_and_it_waits_for_nothing(
    state: str, waiting: list[str], exit_status: int
) -> None:
    result = invoke(status, {**NODE, "waiting_for": waiting, "pods": [{**POD, "state": state}]}, "--node")
    assert result.exit_code == exit_status
    said = f"{LONG}/{LONG}: {POD['message']}" in result.stdout.splitlines()
    assert said is (state in ("waiting", "degraded"))
    assert all(f"waiting for: {line}" in result.stdout.splitlines() for line in waiting)


def test_node_shows_pods_that_have_nothing_with_dashes() -> None:
    bare = {"identity": None, "since": None, "certificate_not_after": None, "listeners": []}
    row = {**POD, **bare, "namespace": "shop", "name": "web", "state": "outside", "reason": "HostNetwork"}
    line = invoke(status, {**NODE, "pods": [row]}, "--node").stdout.splitlines()[1]
    assert line.split() == ["shop/web", "-", "outside", "HostNetwork", "-", "-", "-"]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ((), {}),
        (("--open",), {"state": "open"}),
        (("--denied", "--limit", "7"), {"verdict": "denial", "limit": 7}),
    ],
)
def test_connections_asks_for_what_is_wanted(options: tuple[str, ...], asked: dict[str, object]) -> None:
    session = Answering([])
    CliRunner().invoke(connections, options, obj=session, catch_exceptions=False)
    assert session.asked == {"command": "connections", "limit": 20, **asked}


def test_followed_rows_are_those_before_the_first_seen() -> None:
    rows = [{"id": name} for name in "edcba"]
    assert [row["id"] for row in not_yet_shown(rows, {"c", "b"})] == ["d", "e"]
    assert not_yet_shown(rows, {"e"}) == []
    assert len(not_yet_shown(rows, set())) == 5


def test_colour_is_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.coloured("ready") == "\x1b[32mready\x1b[0m"
    assert output.cell_style()("RESULT", "peer_untrusted ") == "\x1b[31mpeer_untrusted \x1b[0m"
    assert output.cell_style()("SOURCE", "ready") == "ready"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.coloured("ready") == "ready"
    assert output.cell_style()("STATE", "ready") == "ready"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    monkeypatch.delenv("NO_COLOR")
    assert output.coloured("ready") == "ready"


def test_narrow_terminal_gets_a_narrower_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "90")
    assert output.line_width() == 90
    monkeypatch.setenv("COLUMNS", "20")
    assert output.line_width() == output.NARROWEST_TERMINAL


@pytest.mark.parametrize("name", sorted(group.commands))
def test_help_of_every_command_has_examples_and_fits_the_line(name: str) -> None:
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0
    assert "Examples:\n" in result.stdout
    assert f"interceptor {name}" in result.stdout.partition("Examples:")[2].replace("--config my.yaml ", "")
    assert max(map(len, result.stdout.splitlines())) < 110


@pytest.mark.parametrize("name", sorted(group.commands))
def test_command_that_prints_data_offers_formats(name: str) -> None:
    prints_data = {"doctor", "workloads", "connections", "certificates", "status", "explain", "policies"}
    options = {option for parameter in group.commands[name].params for option in parameter.opts}
    assert ("--output" in options) == (name in prints_data)
