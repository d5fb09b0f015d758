"""Who leads: whoever holds a Lease, renews it in time, and stops by himself before another may take it.

Source: kubernetes.io, "Leases", and the rules of client-go's leaderelection. Nobody compares clocks: how long a lease
is good is counted from when we ourselves saw it change last. To lead spares work, no more: that two who believe to lead
do not both write is for the version of what is written (`objects`).
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from interceptor.cluster.fields import Fields
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.wire import parse_json
from interceptor.identity.strict_json import instant_text
from interceptor.shared_authority.objects import LABELS, MAX_VERSION

DURATION_SECONDS: Final = 15  # others wait for so long
GOOD_SECONDS: Final = (
    10.0  # and we lead for so long after we began a renewal: a write that is under way ends meanwhile
)
RENEW_SECONDS: Final = 3.0
LOOK_SECONDS: Final = 2.0  # of who does not lead
_WHAT: Final = "the Lease"


@dataclass(frozen=True, slots=True)
class Lease:
    """One state of it; nobody holds it without a `holder`."""

    version: str
    holder: str | None
    acquired_at: str | None
    seconds: int
    transitions: int


@dataclass(frozen=True, slots=True)
class Sight:
    """A lease, and since when we have seen it in this state, in seconds of a clock that only goes on."""

    lease: Lease
    since: float


def collection(namespace: str) -> str:
    """The path under which one is created."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def path(key: ObjectKey) -> str:
    """The path of one."""
    return f"{collection(key.namespace)}/{key.name}"


def parse_lease(data: bytes) -> Lease:
    """Raises InvalidInput."""
    fields = Fields(_WHAT, parse_json(_WHAT, data))
    spec = fields.part("spec")
    return Lease(
        fields.part("metadata").text("resourceVersion", MAX_VERSION),
        spec.optional_text("holderIdentity") or None,
        spec.optional_text("acquireTime"),
        spec.number("leaseDurationSeconds", 1, 3600) or DURATION_SECONDS,
        spec.number("leaseTransitions", 0, 2**31 - 1) or 0,
    )


def seen(before: Sight | None, lease: Lease, now: float) -> Sight:
    """What we know after another look."""
    if before is not None and before.lease.version == lease.version:
        return before
    return Sight(lease, now)


def may_take(sight: Sight, me: str, now: float) -> bool:
    """Whether we hold it, or nobody does any more."""
    holder = sight.lease.holder
    return holder is None or holder == me or now >= sight.since + sight.lease.seconds


def taken(key: ObjectKey, me: str, before: Lease | None, now: datetime) -> bytes:
    """What is to be sent to hold it from now on; to create it, without `before`."""
    at = instant_text(now)
    if before is None:
        return _body(key, None, me, at, 0, at)
    if before.holder == me:
        return _body(key, before.version, me, before.acquired_at or at, before.transitions, at)
    return _body(key, before.version, me, at, before.transitions + 1, at)


def released(key: ObjectKey, before: Lease, now: datetime) -> bytes:
    """What is to be sent so that the next need not wait."""
    at = instant_text(now)
    return _body(key, before.version, "", before.acquired_at or at, before.transitions, at)


def _body(
    key: ObjectKey, version: str | None, holder: str, acquired_at: str, transitions: int, renewed_at: str
) -> bytes:
    metadata: dict[str, Any] = {"name": key.name, "namespace": key.namespace, "labels": LABELS}
    if version is not None:
        metadata["resourceVersion"] = version
    spec = {
        "acquireTime": acquired_at,
        "holderIdentity": holder,
        "leaseDurationSeconds": DURATION_SECONDS,
        "leaseTransitions": transitions,
        "renewTime": renewed_at,
    }
    document = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
    return json.dumps(document).encode("ascii")
