"""Ask policy again about the connections that are open, and close those that it no longer permits.

A connection is held by `LiveConnections` before it is decided for the first time, and both are done without giving up
the processor in between. So whatever is not here when the policy changes is decided by the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from interceptor.policy.attempts import InboundAttempt, OutboundAttempt
from interceptor.policy.verdict import Denial, Reason, Transport
from interceptor.proxy.context import permit_to_itself
from interceptor.workload import Direction

if TYPE_CHECKING:
    from interceptor.policy.policy_set import PolicySet
    from interceptor.policy.verdict import Verdict
    from interceptor.proxy.context import WorkloadContext
    from interceptor.telemetry.connection_record import ConnectionRecord

DECIDED_BY_POLICY = frozenset(
    {
        Reason.UNKNOWN_DESTINATION,
        Reason.PLAINTEXT_REFUSED,
        Reason.POLICY_DENIED,
        Reason.NO_ALLOW_MATCHED,
        Reason.POLICY_PENDING,
        Reason.EGRESS_DENIED,
        Reason.PLAINTEXT_EGRESS_REFUSED,
        Reason.SOURCE_ADDRESS_MISMATCH,
    }
)
BATCH = 100  # decided in one go, before other tasks run


async def redecide(context: WorkloadContext) -> int:
    """Close every connection of a workload that the policy in force denies now; returns how many were closed."""

    def judge(record: ConnectionRecord) -> Denial | None:
        return denial_now(record, context)

    closed = 0
    records = context.live.records
    for start in range(0, len(records), BATCH):
        closed += context.live.close_denied(judge, records[start : start + BATCH])
        await trio.lowlevel.checkpoint()
    return closed


def denial_now(record: ConnectionRecord, context: WorkloadContext) -> Denial | None:
    """Why an open connection may not go on; None when it may, or has not been decided yet."""
    if record.verdict != "permit":
        return None
    verdict = verdict_now(record, context, context.policy.value)
    if isinstance(verdict, Denial):
        return verdict
    if verdict is not None and record.transport is Transport.PLAINTEXT is not verdict.transport:
        by = _encryption_demanded_by(record, context.policy.value)
        return Denial(Reason.PLAINTEXT_REFUSED, "it is in plaintext, and must be encrypted now", by)
    return None


def _encryption_demanded_by(record: ConnectionRecord, policies: PolicySet) -> str:
    """The document whose mode does not take plaintext any more; empty when that is the configuration."""
    target, destination = record.destination_workload, record.destination
    if target is None or destination is None:
        return ""
    return str(policies.modes.at(target, destination.port).given_by or "")


def verdict_now(record: ConnectionRecord, context: WorkloadContext, policies: PolicySet) -> Verdict | None:
    """What policies say of a connection that the record tells of; None when it does not tell enough."""
    attempt = attempt_again(record, context)
    if isinstance(attempt, OutboundAttempt):
        return permit_to_itself(attempt) or policies.decide_outbound(attempt)
    return None if attempt is None else policies.decide_inbound(attempt)


def attempt_again(
    record: ConnectionRecord, context: WorkloadContext
) -> InboundAttempt | OutboundAttempt | None:
    """The question that policy was asked about a connection, at this moment; None when it never came to that."""
    if record.source is None or record.destination is None:
        return None
    if record.direction is Direction.OUTBOUND:
        return OutboundAttempt(
            context.workload,
            record.destination,
            record.destination_workload,
            context.timestamp(),
            record.is_outside,
        )
    # A source that has gone meanwhile had the address when the connection was made, and nobody else has it now.
    holder = context.registry.value.by_address(record.source.address) or record.source_workload
    return InboundAttempt(
        context.workload,
        record.destination,
        record.source.address,
        context.canonical(record.source_identity),
        holder,
        context.timestamp(),
    )


def was_decided(record: ConnectionRecord) -> bool:
    """Whether policy had a say: what ended before (in a handshake, say) tells too little to be judged."""
    return record.transport is not None or record.reason in DECIDED_BY_POLICY
