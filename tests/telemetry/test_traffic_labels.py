"""The labels are those of ztunnel, and a principal is only what was proven."""

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.verdict import Reason, Transport
from interceptor.telemetry.connection_record import ConnectionRecord
from interceptor.telemetry.traffic_labels import LABEL_NAMES, OTHER_LABELS, key_of, labels_of
from interceptor.workload import Direction, Workload, WorkloadKey

WEB = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/web")
DATABASE = Workload(
    WorkloadKey("bank", "database"), SpiffeId.parse("spiffe://cluster.local/ns/bank/sa/db"), (), "node-1"
)


def labels(record: ConnectionRecord, reason: Reason | None = None) -> dict[str, str]:
    return dict(zip(LABEL_NAMES, labels_of(key_of(record, reason)), strict=True))


def test_label_names_are_those_of_ztunnel() -> None:
    side = ("workload", "canonical_service", "canonical_revision", "workload_namespace", "principal", "app")
    side = (*side, "version", "cluster")
    assert set(LABEL_NAMES) == {
        "reporter",
        *(f"source_{name}" for name in side),
        *(f"destination_{name}" for name in side),
        *("destination_service", "destination_service_name", "destination_service_namespace"),
        *("request_protocol", "response_flags", "connection_security_policy"),
    }
    assert len(LABEL_NAMES) == len(set(LABEL_NAMES)) == len(OTHER_LABELS)


def test_labels_of_bare_record_are_unknown() -> None:
    record = ConnectionRecord(Direction.OUTBOUND, "c1", "t1", None, None, 0.0, 0.0)
    assert labels(record) == dict.fromkeys(LABEL_NAMES, "unknown") | {
        "reporter": "source",
        "request_protocol": "tcp",
        "response_flags": "-",
    }


def test_labels_of_full_record_name_both_sides() -> None:
    record = ConnectionRecord(Direction.INBOUND, "c1", "t1", None, None, 0.0, 0.0)
    record.source_identity = WEB
    record.destination_workload = DATABASE
    record.transport = Transport.MUTUAL_TLS
    assert labels(record, Reason.DESTINATION_REFUSED) == dict.fromkeys(LABEL_NAMES, "unknown") | {
        "reporter": "destination",
        "source_workload_namespace": "shop",
        "source_principal": "spiffe://cluster.local/ns/shop/sa/web",
        "destination_workload": "database",
        "destination_canonical_service": "database",
        "destination_app": "database",
        "destination_workload_namespace": "bank",
        # destination_principal stays unknown: the registry's belief is no proof
        "request_protocol": "tcp",
        "response_flags": "destination_refused",
        "connection_security_policy": "mutual_tls",
    }
