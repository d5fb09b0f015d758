"""The audit trail has a line for each denial, exception and change of policy, and none for what denied nobody."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from interceptor.agent.audit import Audit
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.verdict import Denial, Permit, Reason, Transport
from interceptor.telemetry.connection_record import ConnectionRecord
from interceptor.workload import Direction, Endpoint

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.policy.verdict import Verdict

NOW = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)


def record(verdict: Verdict) -> ConnectionRecord:
    made = ConnectionRecord(
        Direction.INBOUND, "c1", "t", Endpoint.parse("10.0.0.1:4000"), Endpoint.parse("10.0.0.2:80"), 1.0, 1.0
    )
    made.source_identity = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/web")
    made.decide(verdict)
    return made


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    return Audit(tmp_path / "audit.jsonl", 100_000, lambda: NOW)


def events(audit: Audit, tmp_path: Path) -> list[dict[str, Any]]:
    audit.flush()
    path = tmp_path / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_denial_is_noted_with_who_and_which_policy(audit: Audit, tmp_path: Path) -> None:
    audit.closed(record(Denial(Reason.POLICY_DENIED, "it matches", "AuthorizationPolicy shop/a")))
    (event,) = events(audit, tmp_path)
    assert event == {
        "time": "2027-01-02T03:04:05.000Z",
        "event": "denial",
        "reason": "policy_denied",
        "policy": "AuthorizationPolicy shop/a",
        "detail": "it matches",
        "connection": "c1",
        "trace_id": "t",
        "direction": "inbound",
        "source_address": "10.0.0.1:4000",
        "source_workload": None,
        "source_namespace": "shop",
        "source_identity": "spiffe://cluster.local/ns/shop/sa/web",
        "destination_address": "10.0.0.2:80",
        "destination_workload": None,
        "destination_namespace": None,
        "destination_identity": None,
        "connection_security_policy": "unknown",
    }


@pytest.mark.parametrize(
    "verdict", [Permit(Transport.PLAINTEXT), Denial(Reason.DESTINATION_REFUSED), Denial(Reason.WITHDRAWN)]
)
def test_what_denied_nobody_is_not_noted(audit: Audit, tmp_path: Path, verdict: Verdict) -> None:
    made = record(verdict)
    audit.opened(made)
    audit.closed(made)
    assert events(audit, tmp_path) == []


def test_exception_is_noted_and_counted_when_it_is_used(audit: Audit, tmp_path: Path) -> None:
    used = record(Permit(Transport.PLAINTEXT, exception="LegacyException shop/old"))
    for _ in range(2):
        audit.opened(used)
        audit.closed(used)
    assert [(e["event"], e["exception"]) for e in events(audit, tmp_path)] == [
        ("exception_used", "LegacyException shop/old")
    ] * 2
    assert audit.exceptions_used == {"LegacyException shop/old": 2}


def test_change_and_refusal_of_policy_say_by_whom(audit: Audit, tmp_path: Path) -> None:
    audit.policy_changed("uid 0", {"added": ["a"]}, 3, ["+x"])
    audit.policy_refused("files", "p.yaml:1: no")
    changed, refused = events(audit, tmp_path)
    assert (changed["event"], changed["by"], changed["added"]) == ("policy_changed", "uid 0", ["a"])
    assert (changed["connections_closed"], changed["diff"]) == (3, ["+x"])
    assert (refused["event"], refused["by"], refused["error"]) == ("policy_refused", "files", "p.yaml:1: no")
