"""Whether a connection may go on, on both clocks: exact to the second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from interceptor.identity.revocation import Revocation, RevocationKind, RevocationList
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.trust_bundle import TrustBundles
from interceptor.policy.verdict import Reason
from interceptor.proxy.late_denial import Lifetimes, age_denial, revocation_denial
from interceptor.telemetry.connection_record import ConnectionRecord
from interceptor.workload import Direction

NOW = datetime(2030, 1, 1, tzinfo=UTC)
A, B = (SpiffeId.parse(f"spiffe://cluster.local/ns/default/sa/{name}") for name in "ab")
OUR_SERIALS, PEERS_SERIALS = ("a1", "ca"), ("b1", "cb")
HOUR = timedelta(hours=1)


def record(direction: Direction = Direction.OUTBOUND) -> ConnectionRecord:
    """A is the source and B the destination, whichever of them we are."""
    made = ConnectionRecord(direction, "1", "2", None, None, 0.0, 100.0)
    made.source_identity, made.destination_identity = A, B
    made.own_serials, made.peer_serials = OUR_SERIALS, PEERS_SERIALS
    made.peer_not_after = NOW
    return made


def revoked(kind: RevocationKind, value: str, why: str = "") -> TrustBundles:
    entries = RevocationList((Revocation(kind, value, NOW, why),))
    return TrustBundles({}, (TrustDomain("old.example"),), TrustDomain("cluster.local"), entries)


@pytest.mark.parametrize(
    ("direction", "identity", "reason"),
    [
        (Direction.OUTBOUND, A, Reason.IDENTITY_REVOKED),
        (Direction.OUTBOUND, B, Reason.PEER_REVOKED),
        (Direction.INBOUND, A, Reason.PEER_REVOKED),
        (Direction.INBOUND, B, Reason.IDENTITY_REVOKED),
    ],
)
def test_connection_of_a_revoked_identity_ends_on_both_sides(
    direction: Direction, identity: SpiffeId, reason: Reason
) -> None:
    bundles = revoked(RevocationKind.IDENTITY, str(identity), "stolen laptop")
    denial = revocation_denial(record(direction), bundles)
    assert denial is not None
    assert denial.reason is reason
    assert str(identity) in denial.detail
    assert "stolen laptop" in denial.detail


@pytest.mark.parametrize(
    ("serial", "reason"),
    [
        ("a1", Reason.IDENTITY_REVOKED),
        ("ca", Reason.IDENTITY_REVOKED),
        ("b1", Reason.PEER_REVOKED),
        ("cb", Reason.PEER_REVOKED),
    ],
)
@pytest.mark.parametrize("direction", Direction)
def test_connection_made_with_a_revoked_certificate_ends(
    direction: Direction, serial: str, reason: Reason
) -> None:
    denial = revocation_denial(record(direction), revoked(RevocationKind.SERIAL, serial))
    assert denial is not None
    assert denial.reason is reason


def test_connection_of_an_alias_ends_when_the_identity_is_revoked_under_either_name() -> None:
    alias = SpiffeId.parse("spiffe://old.example/ns/default/sa/b")
    connection = record()
    connection.destination_identity = alias
    for name in (alias, B):
        denial = revocation_denial(connection, revoked(RevocationKind.IDENTITY, str(name)))
        assert denial is not None
        assert denial.reason is Reason.PEER_REVOKED


def test_connection_of_others_goes_on() -> None:
    other = "spiffe://cluster.local/ns/default/sa/c"
    assert revocation_denial(record(), revoked(RevocationKind.IDENTITY, other)) is None
    assert revocation_denial(record(), revoked(RevocationKind.SERIAL, "c1")) is None
    assert revocation_denial(record(), TrustBundles({})) is None


def test_connection_without_identities_is_nobodys_to_revoke() -> None:
    plaintext = ConnectionRecord(Direction.INBOUND, "1", "2", None, None, 0.0, 100.0)
    assert revocation_denial(plaintext, revoked(RevocationKind.IDENTITY, str(A))) is None
    assert age_denial(plaintext, Lifetimes(HOUR, None), NOW + 1000 * HOUR, 1e9) is None


@pytest.mark.parametrize(
    ("grace", "late", "ends"),
    [
        (HOUR, timedelta(0), False),
        (HOUR, HOUR, False),
        (HOUR, HOUR + timedelta(seconds=1), True),
        (timedelta(0), timedelta(0), False),
        (timedelta(0), timedelta(seconds=1), True),
        (HOUR, -1000 * HOUR, False),
    ],
)
def test_peer_whose_certificate_has_expired_is_closed_after_the_grace(
    grace: timedelta, late: timedelta, ends: bool
) -> None:
    denial = age_denial(record(), Lifetimes(grace, None), NOW + late, 1e9)
    assert (denial is not None) is ends
    if denial is not None:
        assert denial.reason is Reason.PEER_CERTIFICATE_EXPIRED_SINCE
        assert "expired at 2030-01-01T00:00:00Z" in denial.detail


@pytest.mark.parametrize(("age", "ends"), [(0.0, False), (3600.0, False), (3600.1, True)])
def test_connection_of_the_greatest_age_is_closed(age: float, ends: bool) -> None:
    denial = age_denial(record(), Lifetimes(HOUR, HOUR), NOW, 100.0 + age)
    assert (denial is not None) is ends
    if denial is not None:
        assert denial.reason is Reason.CONNECTION_TOO_OLD
        assert denial.detail == "it is 3600 s old, allowed are 3600 s"
