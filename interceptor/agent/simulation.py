"""What another set of policies would do to the connections that are open, and to those of late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from interceptor.agent.plaintext_peers import WINDOW_SECONDS
from interceptor.policy.attempts import InboundAttempt
from interceptor.policy.verdict import Denial, Reason
from interceptor.proxy.redecide import BATCH, verdict_now, was_decided
from interceptor.workload import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.agent.node import Node
    from interceptor.agent.plaintext_peers import PlaintextPeer
    from interceptor.policy.policy_set import PolicySet
    from interceptor.policy.verdict import Verdict
    from interceptor.proxy.context import WorkloadContext
    from interceptor.telemetry.connection_record import ConnectionRecord


_REFUSED = Reason.PLAINTEXT_REFUSED.value


@dataclass(frozen=True, slots=True)
class _Change:
    """One kind of change: the same two ends and the same two verdicts."""

    direction: str
    source: str
    destination: str
    before: str
    after: str
    policy: str


async def simulate(node: Node, candidate: PolicySet) -> dict[str, Any]:
    """Every verdict that would change, with how many connections it is about; JSON values."""
    found: dict[_Change, list[int]] = {}
    judged = 0
    records = [*node.records.recent.live, *node.records.recent.finished]
    for number, record in enumerate(records):
        change = _change(node, record, candidate)
        judged += change is not None
        if isinstance(change, _Change):
            counts = found.setdefault(change, [0, 0])
            counts[record.is_finished] += 1
        if number % BATCH == 0:
            await trio.lowlevel.checkpoint()
    told = {(change.source, change.destination, change.after) for change in found}
    for peer in await refused_peers(node, candidate):
        where = f"{peer.workload}:{peer.destination.port}"
        if (str(peer.source), where, _REFUSED) not in told:
            found[_Change("inbound", str(peer.source), where, "none", _REFUSED, "")] = [0, 1]
    return {
        "connections": judged,
        "changes": [
            {
                "direction": change.direction,
                "source": change.source,
                "destination": change.destination,
                "before": change.before,
                "after": change.after,
                "policy": change.policy or None,
                "open": live,
                "recent": recent,
            }
            for change, (live, recent) in found.items()
        ],
    }


async def refused_peers(node: Node, candidate: PolicySet) -> tuple[PlaintextPeer, ...]:
    """Who was let in without an identity in the last hour and would be refused for that."""
    now = node.now().timestamp()
    refused = []
    for number, peer in enumerate(node.records.plaintext_peers.since(now - WINDOW_SECONDS)):
        if _is_refused(node, node.policy.value, peer, now) is False and _is_refused(
            node, candidate, peer, now
        ):
            refused.append(peer)
        if number % BATCH == 0:
            await trio.lowlevel.checkpoint()
    return tuple(refused)


def _is_refused(node: Node, policies: PolicySet, peer: PlaintextPeer, now: float) -> bool | None:
    enrolled = node.enroller.get(peer.workload)
    if enrolled is None:
        return None
    attempt = InboundAttempt(enrolled.workload, peer.destination, peer.source, None, at=now)
    verdict = policies.decide_inbound(attempt)
    return isinstance(verdict, Denial) and verdict.reason is Reason.PLAINTEXT_REFUSED


def _change(node: Node, record: ConnectionRecord, candidate: PolicySet) -> _Change | bool | None:
    """What would change for one connection; False when nothing would, None when it cannot be judged."""
    context = _context(node, record)
    if context is None or not was_decided(record):
        return None
    before, after = (verdict_now(record, context, each) for each in (node.policy.value, candidate))
    if before is None or after is None:
        return None
    if _word(before) == _word(after):
        return False
    source = record.source_workload.key if record.source_workload else record.source and record.source.address
    port = record.destination.port if record.destination else 0
    target = record.destination_workload
    where = f"{target.key}:{port}" if target else str(record.destination)
    return _Change(record.direction.value, str(source), where, _word(before), _word(after), after.policy)


def _context(node: Node, record: ConnectionRecord) -> WorkloadContext | None:
    own = record.source_workload if record.direction is Direction.OUTBOUND else record.destination_workload
    enrolled = node.enroller.get(own.key) if own is not None else None
    return None if enrolled is None else enrolled.proxy.context


def _word(verdict: Verdict) -> str:
    """`mutual_tls`, `none` (plaintext), or the reason of a denial."""
    return verdict.reason.value if isinstance(verdict, Denial) else verdict.transport.value


def named(peers: Iterable[PlaintextPeer], most: int = 10) -> str:
    """Peers in a message."""
    texts = [f"{peer.source} -> {peer.workload}:{peer.destination.port}" for peer in peers]
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more} more" if more > 0 else "")
