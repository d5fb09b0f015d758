"""Whether a connection that was permitted may go on: nobody revoked, certificates not too long expired, not too old.

Pure: both clocks are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.errors import PeerRejected, utc
from interceptor.policy.verdict import Denial, Reason
from interceptor.workload import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from interceptor.identity.spiffe_id import SpiffeId
    from interceptor.identity.trust_bundle import TrustBundles
    from interceptor.telemetry.connection_record import ConnectionRecord


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long a connection may outlive its peer's certificate, and its own beginning (None: for ever)."""

    expired_peer_grace: timedelta
    max_age: timedelta | None


def revocation_denial(record: ConnectionRecord, bundles: TrustBundles) -> Denial | None:
    """Why a connection ends now that these bundles are in force: one of its two ends was revoked."""
    ours, peers = record.destination_identity, record.source_identity
    if record.direction is Direction.OUTBOUND:
        ours, peers = peers, ours
    return _revoked(Reason.IDENTITY_REVOKED, ours, record.own_serials, bundles) or _revoked(
        Reason.PEER_REVOKED, peers, record.peer_serials, bundles
    )


def age_denial(
    record: ConnectionRecord, lifetimes: Lifetimes, now: datetime, now_monotonic: float
) -> Denial | None:
    """Why a connection ends at this moment: the peer's certificate has been expired for too long, or it is too old."""
    ends = record.peer_not_after
    if ends is not None and now > ends + lifetimes.expired_peer_grace:
        return Denial(
            Reason.PEER_CERTIFICATE_EXPIRED_SINCE,
            f"the certificate that the peer showed expired at {utc(ends)}, now is {utc(now)}",
        )
    if lifetimes.max_age is None:
        return None
    age, allowed = record.duration_seconds(now_monotonic), lifetimes.max_age.total_seconds()
    if age > allowed:
        return Denial(Reason.CONNECTION_TOO_OLD, f"it is {age:.0f} s old, allowed are {allowed:g} s")
    return None


def _revoked(
    reason: Reason, identity: SpiffeId | None, serials: Iterable[str], bundles: TrustBundles
) -> Denial | None:
    if identity is None or not bundles.revoked.entries:
        return None
    try:
        bundles.require_not_revoked(identity, serials)
    except PeerRejected as error:
        return Denial(reason, str(error))
    return None
