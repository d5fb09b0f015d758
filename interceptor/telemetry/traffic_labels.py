"""The labels of the traffic metrics: names and meanings are those of Istio's ztunnel, so its dashboards work unchanged.

Source: istio.io, "Istio Standard Metrics", and ztunnel's src/proxy/metrics.rs.
"""

from typing import Final, NamedTuple

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.verdict import Reason, Transport
from interceptor.telemetry.connection_record import ConnectionRecord
from interceptor.workload import Direction, Workload, WorkloadKey

UNKNOWN: Final = "unknown"
OTHER: Final = "other"  # every label of the one series that takes what exceeds the limit
NO_FLAGS: Final = "-"  # nothing remarkable happened; Envoy's and Istio's spelling

_SIDE: Final = (
    "workload",
    "canonical_service",
    "canonical_revision",
    "workload_namespace",
    "principal",
    "app",
    "version",
    "cluster",
)
LABEL_NAMES: Final = (
    "reporter",
    *(f"source_{name}" for name in _SIDE),
    *(f"destination_{name}" for name in _SIDE),
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
)
OTHER_LABELS: Final = (OTHER,) * len(LABEL_NAMES)


class TrafficKey(NamedTuple):
    """What decides the labels of a connection: small, hashable, and free of anything that a peer can vary at will."""

    direction: Direction
    source: WorkloadKey | None
    destination: WorkloadKey | None
    source_identity: SpiffeId | None
    destination_identity: SpiffeId | None
    transport: Transport | None
    reason: Reason | None


def key_of(record: ConnectionRecord, reason: Reason | None) -> TrafficKey:
    """The key of a connection; `reason` is given for one that failed, and is None for one that opened."""
    source, destination = record.source_workload, record.destination_workload
    return TrafficKey(
        record.direction,
        _key(source),
        _key(destination),
        record.source_identity,
        record.destination_identity,
        record.transport,
        reason,
    )


def labels_of(key: TrafficKey) -> tuple[str, ...]:
    """The values in the order of LABEL_NAMES.

    A principal is the proven identity and never what the registry believes: that is how Istio defines it. There are
    no services and clusters here yet, so those labels are "unknown".
    """
    return (
        "source" if key.direction is Direction.OUTBOUND else "destination",
        *_side(key.source, key.source_identity),
        *_side(key.destination, key.destination_identity),
        UNKNOWN,
        UNKNOWN,
        UNKNOWN,
        "tcp",
        key.reason.value if key.reason else NO_FLAGS,
        key.transport.value if key.transport else UNKNOWN,
    )


def _key(workload: Workload | None) -> WorkloadKey | None:
    return None if workload is None else workload.key


def _side(key: WorkloadKey | None, identity: SpiffeId | None) -> tuple[str, ...]:
    """The eight labels of one side; without a workload the namespace is the one in the identity."""
    name = key.name if key else UNKNOWN
    namespace = key.namespace if key else identity.namespace if identity else UNKNOWN
    principal = str(identity) if identity else UNKNOWN
    return (name, name, UNKNOWN, namespace, principal, name, UNKNOWN, UNKNOWN)
