"""`interceptor explain --connection ID`: what happened to a connection, and what policy would say of it now.

It is told from the record, in memory or in the files of the last hours, so that a restart of the agent loses none that was
refused. The record of the other side is looked for too, by the trace that both share: it has the reason for what this
side saw only as a closed door.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import trio

from interceptor.agent.audit import KEEP
from interceptor.agent.explanation import Explanation
from interceptor.agent.line_search import find_lines
from interceptor.errors import UsageError, quoted
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.policy_set import InboundAttempt, OutboundAttempt
from interceptor.policy.trace import explain_inbound, explain_outbound
from interceptor.policy.verdict import Reason
from interceptor.proxy.redecide import DECIDED_BY_POLICY
from interceptor.telemetry.connection_record import UNKNOWN_TRANSPORT
from interceptor.workload import Direction, Endpoint, WorkloadKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from interceptor.agent.node import Node
    from interceptor.policy.trace import Trace

    Shown = Mapping[str, Any]  # a record as it is shown, or the line of a denial in the audit trail

_ID = re.compile("[0-9a-f]{16}")
_REASONS = {reason.value: reason for reason in Reason}
_KEYS = (
    *("time", "trace_id", "direction", "reason", "detail", "policy", "connection_security_policy"),
    *("source_address", "source_workload", "source_namespace", "source_identity"),
    *("destination_address", "destination_workload", "destination_namespace", "destination_identity"),
)
FLUSHED_SECONDS = 0.5  # after which what was in memory only is in a file


async def explain_connection(node: Node, name: str) -> dict[str, object]:
    """What happened to the connection of that id; UsageError when nothing is known of it."""
    found = await _find(node, "id", name) if _ID.fullmatch(name) else ()
    if not found and _ID.fullmatch(name):
        await trio.sleep(FLUSHED_SECONDS)
        found = await _find(node, "id", name)
    if not found:
        raise UsageError(
            f"no connection {quoted(name)} is remembered, in memory, in {node.audit.path} or in {node.config.records.path}: "
            "see 'interceptor connections -o json' for the ids of the latest"
        )
    shown = found[0]
    source = f"{shown['source_namespace']}/{shown['source_workload']}"
    explanation = Explanation(
        source if shown["source_workload"] else str(shown["source_address"]),
        str(shown["destination_address"]),
    )
    reason = await _follow(node, explanation, shown)
    other = await _other_side(node, shown)
    if other is not None:
        reason = await _follow(node, explanation, other) or reason
    if reason is not None:
        explanation.deny("so", reason)
    return explanation.to_dict()


async def _other_side(node: Node, shown: Shown) -> Shown | None:
    found = await _find(node, "trace_id", shown["trace_id"]) if shown["trace_id"] else ()
    return next((each for each in found if each["direction"] != shown["direction"]), None)


async def _find(node: Node, key: str, value: str) -> Sequence[Shown]:
    """The records that have that value, from memory if there are some, else from the files."""
    now = trio.current_time()
    records = (*node.records.recent.live, *node.records.recent.finished)
    remembered = [each.to_dict(now) for each in reversed(records) if getattr(each, key) == value]
    return remembered or await trio.to_thread.run_sync(_in_files, node, key, value)


def _in_files(node: Node, key: str, value: str) -> Sequence[Shown]:
    """The denials in the audit trail, else whatever is in the file of records; an older agent wrote fewer keys."""
    audited = find_lines(node.audit.path, KEEP, "connection" if key == "id" else key, value)
    denials = [each for each in audited if each.get("event") == "denial"]
    found = denials or list(find_lines(node.config.records.path, 1, key, value))
    return [{**dict.fromkeys(_KEYS), **each} for each in found]


async def _follow(node: Node, explanation: Explanation, shown: Shown) -> Reason | None:
    """Add what one side's record says, and what policy says of it now; returns why it was refused, if it was."""
    outcome = f"{shown['reason']}: {shown['detail']}" if shown["reason"] else "permitted"
    by = f" ({shown['policy']})" if shown["policy"] else ""
    explanation.step(
        "record",
        f"at {shown['time']}, {shown['direction']}, identity {shown['source_identity'] or 'none'}: {outcome}{by}",
        passed=not shown["reason"],
    )
    trace = await _trace_now(node, shown)
    if trace is None:
        explanation.step(
            "policy", "it ended before policy was asked, or its workload is not enrolled any more"
        )
    else:
        explanation.follow(f"{shown['direction']} policy", trace)
    return _REASONS.get(shown["reason"])


async def _trace_now(node: Node, shown: Shown) -> Trace | None:
    attempt = _attempt_now(node, shown)
    if isinstance(attempt, OutboundAttempt):
        return await trio.to_thread.run_sync(explain_outbound, node.policy.value, attempt)
    if attempt is None:
        return None
    return await trio.to_thread.run_sync(explain_inbound, node.policy.value, attempt)


def _attempt_now(node: Node, shown: Shown) -> InboundAttempt | OutboundAttempt | None:
    """The question that policy was asked, with what the registry says now; None when it never came to that."""
    was_decided = (
        shown["connection_security_policy"] not in (None, UNKNOWN_TRANSPORT)
        or shown["reason"] in DECIDED_BY_POLICY
    )
    is_outbound = shown["direction"] == Direction.OUTBOUND
    side = "source" if is_outbound else "destination"
    own = (shown[f"{side}_namespace"], shown[f"{side}_workload"])
    enrolled = node.enroller.get(WorkloadKey(*own)) if all(own) else None
    if not (was_decided and enrolled and shown["source_address"] and shown["destination_address"]):
        return None
    destination, now = Endpoint.parse(shown["destination_address"]), node.now().timestamp()
    if is_outbound:
        target = node.registry.value.by_address(destination.address)
        return OutboundAttempt(enrolled.workload, destination, target, now)
    source = Endpoint.parse(shown["source_address"]).address
    proven = shown["source_identity"]
    identity = enrolled.proxy.context.canonical(SpiffeId.parse(proven) if proven else None)
    holder = node.registry.value.by_address(source)
    return InboundAttempt(enrolled.workload, destination, source, identity, holder, now)
