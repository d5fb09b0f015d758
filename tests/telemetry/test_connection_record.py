"""A record is finished once, and its dict is stable, flat JSON."""

import json

import pytest

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.verdict import Denial, Permit, Reason, Transport
from interceptor.telemetry.connection_record import ClosedBy, CloseKind, ConnectionRecord
from interceptor.workload import Direction, Endpoint, Workload, WorkloadKey

KEYS = [
    "id",
    "trace_id",
    "time",
    "direction",
    "source_address",
    "source_workload",
    "source_namespace",
    "source_identity",
    "destination_address",
    "destination_workload",
    "destination_namespace",
    "destination_identity",
    "bytes_sent",
    "bytes_received",
    "duration_ms",
    "closed_by",
    "close_kind",
    "verdict",
    "reason",
    "detail",
    "connection_security_policy",
    "tls_version",
    "tls_cipher",
    "tls_key_exchange",
    "peer_serial_number",
    "state",
]
WEB = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/web")
DATABASE = Workload(
    WorkloadKey("shop", "database"), SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/db"), (), "node-1"
)


def record() -> ConnectionRecord:
    return ConnectionRecord(
        Direction.INBOUND,
        "c1",
        "t1",
        Endpoint.parse("10.0.0.1:4000"),
        Endpoint.parse("[fd00::2]:5432"),
        opened_at=1_700_000_000.1239,
        opened_monotonic=50.0,
    )


def test_record_new_has_every_key_in_order() -> None:
    fresh = ConnectionRecord(Direction.OUTBOUND, "c1", "t1", None, None, 0.0, 50.0)
    shown = fresh.to_dict(50.0)
    assert list(shown) == KEYS
    assert shown == dict.fromkeys(KEYS) | {
        "id": "c1",
        "trace_id": "t1",
        "time": "1970-01-01T00:00:00.000Z",
        "direction": "outbound",
        "bytes_sent": 0,
        "bytes_received": 0,
        "duration_ms": 0.0,
        "detail": "",
        "connection_security_policy": "unknown",
        "state": "open",
    }


def test_record_with_all_facts_shows_them() -> None:
    full = record()
    full.source_identity = WEB
    full.destination_workload = DATABASE
    full.destination_identity = DATABASE.identity
    full.decide(Permit(Transport.MUTUAL_TLS))
    full.tls_version, full.cipher, full.key_exchange = "TLSv1.3", "TLS_AES_128_GCM_SHA256", "X25519"
    full.peer_serials = ("1f", "2a")
    full.bytes_sent, full.bytes_received = 10, 20
    full.finish(51.5, ClosedBy.SOURCE, CloseKind.FIN)
    shown = full.to_dict(99.0)
    assert list(shown) == KEYS
    assert json.loads(json.dumps(shown)) == {
        "id": "c1",
        "trace_id": "t1",
        "time": "2023-11-14T22:13:20.123Z",
        "direction": "inbound",
        "source_address": "10.0.0.1:4000",
        "source_workload": None,
        "source_namespace": "shop",  # from the identity: the registry did not know the source
        "source_identity": "spiffe://cluster.local/ns/shop/sa/web",
        "destination_address": "[fd00::2]:5432",
        "destination_workload": "database",
        "destination_namespace": "shop",
        "destination_identity": "spiffe://cluster.local/ns/shop/sa/db",
        "bytes_sent": 10,
        "bytes_received": 20,
        "duration_ms": 1500.0,
        "closed_by": "source",
        "close_kind": "fin",
        "verdict": "permit",
        "reason": None,
        "detail": "",
        "connection_security_policy": "mutual_tls",
        "tls_version": "TLSv1.3",
        "tls_cipher": "TLS_AES_128_GCM_SHA256",
        "tls_key_exchange": "X25519",
        "peer_serial_number": "1f",
        "state": "closed",
    }


def test_record_later_denial_keeps_the_transport() -> None:
    late = record()
    late.decide(Permit(Transport.PLAINTEXT))
    late.decide(Denial(Reason.WITHDRAWN, "shop/web"))
    shown = late.to_dict(50.0)
    assert (shown["verdict"], shown["reason"], shown["detail"]) == ("denial", "withdrawn", "shop/web")
    assert shown["connection_security_policy"] == "none"


def test_record_duration_grows_until_finished() -> None:
    growing = record()
    assert growing.duration_seconds(52.0) == 2.0
    assert not growing.is_finished
    growing.finish(53.0, ClosedBy.INTERCEPTOR, CloseKind.RESET)
    assert growing.is_finished
    assert growing.duration_seconds(99.0) == 3.0


def test_record_finished_twice_raises_and_keeps_the_first() -> None:
    finished = record()
    finished.finish(51.0, ClosedBy.DESTINATION, CloseKind.RESET)
    with pytest.raises(RuntimeError, match="c1 was finished already, by destination"):
        finished.finish(52.0, ClosedBy.SOURCE, CloseKind.FIN)
    assert finished.closed_by is ClosedBy.DESTINATION
    assert finished.duration_seconds(99.0) == 1.0
