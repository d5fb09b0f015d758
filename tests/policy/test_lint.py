"""Warnings tell of what is valid and probably not meant."""

from datetime import UTC, datetime

import pytest

from interceptor.policy.lint import Inventory, expiring, warnings
from tests.policy.world import (
    DB,
    LEDGER,
    WEB,
    authorization,
    egress,
    exception,
    peer_authentication,
    policies,
)

NOW = datetime(2027, 1, 15, tzinfo=UTC)
ROOT = "istio-system"
FINE = authorization("a", rules="[{from: [{source: {principals: ['*/sa/web'], notNamespaces: [bank]}}]}]")
ACCOUNTS = authorization("a", rules="[{from: [{source: {serviceAccounts: [web, nobody]}}]}]")


def found(text: str, *, inventory: bool = True) -> tuple[str, ...]:
    documents = policies(text).documents
    return warnings(documents, ROOT, NOW, Inventory((WEB, DB, LEDGER), ROOT) if inventory else None)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (peer_authentication("a", portLevelMtls="{80: {}}"), "PeerAuthentication shop/a: portLevelMtls is ignored, it only"),
        (authorization("a", action="DENY"), "AuthorizationPolicy shop/a: a DENY without rules never matches"),
        (exception("a", "INBOUND", ports="['80']", expires="2027-01-14"), "LegacyException shop/a: its last day was 2027-01-14, remove it"),
        (exception("a", "INBOUND", ports="['80']", expires="2027-01-20"), "shop/a: its last day is 2027-01-20, ops should see to it"),
        (exception("a", "INBOUND", ports="['80']", expires="2027-01-20T12:30:00Z"), "shop/a: its last day is 2027-01-20T12:30:00Z"),
        (authorization("a", "none"), "AuthorizationPolicy none/a: no enrolled workload in its scope, so it selects nothing"),
        (authorization("a", selector="{matchLabels: {app: wbe}}"), "no enrolled workload in its scope with app=wbe"),
        (ACCOUNTS, "AuthorizationPolicy shop/a: nobody matches no enrolled workload"),
        (egress("a", allow="[]"), "EgressPolicy shop/a: it holds for TCP only"),
        (peer_authentication("a", mtls="{}") + peer_authentication("b", mtls="{}"),
         "PeerAuthentication shop/b: is for the same workloads as PeerAuthentication shop/a"),
    ],
)  # fmt: skip
def test_warning_is_given(text: str, warning: str) -> None:
    (only,) = found(text)
    assert warning in only


def test_egress_policy_is_warned_of_what_it_cannot_hold_and_of_whom_it_does_not_find() -> None:
    tcp_only, ghost = found(egress("a", allow="[{identities: ['*/sa/ghost']}]"))
    assert "holds for TCP only" in tcp_only
    assert ghost == "EgressPolicy shop/a: */sa/ghost matches no enrolled workload"


@pytest.mark.parametrize(
    "text",
    [
        FINE,
        authorization("a", ROOT, selector="{matchLabels: {app: ledger}}"),
        authorization("a", rules="[{to: [{operation: {ports: ['80']}}]}]"),
        egress("a", acceptPlaintextTo="[10.0.9.0/24]"),
        peer_authentication("a", mtls="{}")
        + peer_authentication("b", selector="{matchLabels: {app: db}}", mtls="{}")
        + peer_authentication("c", "bank", mtls="{}"),
        exception("a", "INBOUND", ports="['80']", expires="2027-06-01"),
    ],
)
def test_what_is_meant_gets_no_warning(text: str) -> None:
    assert found(text) == ()


def test_pattern_is_looked_for_once() -> None:
    text = authorization("a", rules="[{from: [{source: {namespaces: ['sh*']}}]}]")
    assert found(text + text.replace("name: a", "name: b")) == ()


def test_without_an_inventory_nothing_is_said_of_whom_is_matched() -> None:
    assert found(ACCOUNTS, inventory=False) == ()


def test_exceptions_that_end_are_told_apart() -> None:
    text = exception("a", "INBOUND", ports="['80']", expires="2027-01-20") + authorization("b", action="DENY")
    assert expiring(policies(text).documents, NOW) == (
        "LegacyException shop/a: its last day is 2027-01-20, ops should see to it",
    )
