"""What another set of policies would do to the connections that are open, and to those of late."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import trio

from interceptor.policy.attempts import InboundAttempt, OutboundAttempt
from interceptor.policy.verdict import Denial, Permit, Reason
from interceptor.proxy.redecide import BATCH, attempt_again
from interceptor.proxy.route import Way
from interceptor.telemetry.recent_attempts import WINDOW_SECONDS
from interceptor.workload import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.agent.node import Node
    from interceptor.agent.plaintext_peers import PlaintextPeer
    from interceptor.policy.policy_set import PolicySet
    from interceptor.policy.verdict import Verdict
    from interceptor.proxy.context import WorkloadContext
    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.telemetry.recent_attempts import Attempt
    from interceptor.workload import Workload


_REFUSED = Reason.PLAINTEXT_REFUSED.value


@dataclass(frozen=True, slots=True)
class _Question:
    """One connection as policy is asked about it, and who is at its destination."""

    attempt: InboundAttempt | OutboundAttempt
    target: Workload | None


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
    """Every verdict that would change, with how many connections it is about; JSON values.

    `not_remembered_before` is a time within the last hour before which some connections were forgotten, None if none was.
    """
    found: dict[_Change, list[int]] = {}
    judged = 0
    questions = _questions(node)
    for attempt in await node.enroller.egress.open_past_the_proxy(candidate):
        questions.append((_Question(attempt, None), True, 1))
    for number, (question, is_open, count) in enumerate(questions):
        change = _change(node, question, candidate)
        if change is not None:
            judged += count
        if isinstance(change, _Change):
            found.setdefault(change, [0, 0])[0 if is_open else 1] += count
        if number % BATCH == 0:
            await trio.lowlevel.checkpoint()
    told = {(change.source, change.destination, change.after) for change in found}
    for peer in await refused_peers(node, candidate):
        where = f"{peer.workload}:{peer.destination.port}"
        if (str(peer.source), where, _REFUSED) not in told:
            found[_Change("inbound", str(peer.source), where, "none", _REFUSED, "")] = [0, 1]
    return {
        "connections": judged,
        "not_remembered_before": _forgotten(node),
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


def _questions(node: Node) -> list[tuple[_Question, bool, int]]:
    """What policy was asked about the connections that are open and those of the last hour, and how often."""
    found: list[tuple[_Question, bool, int]] = []
    for record in node.records.recent.live:
        context = _context(node, record)
        attempt = None if context is None else attempt_again(record, context)
        if attempt is not None:
            found.append((_Question(attempt, record.destination_workload), True, 1))
    for remembered, seen in node.records.attempts.since(node.now().timestamp() - WINDOW_SECONDS):
        question = _question(node, remembered)
        if question is not None:
            found.append((question, False, seen.count))
    return found


def _question(node: Node, remembered: Attempt) -> _Question | None:
    """What would be asked if somebody did that again now; None when its workload is not here any more."""
    enrolled = node.enroller.get(remembered.workload)
    if enrolled is None:
        return None
    now, registry = node.now().timestamp(), node.registry.value
    if remembered.direction is Direction.OUTBOUND:
        target = registry.by_address(remembered.destination.address)
        way = node.locate(remembered.destination, remembered.source).way
        attempt = OutboundAttempt(
            enrolled.workload, remembered.destination, target, now, is_outside=way is Way.OUTSIDE
        )
        return _Question(attempt, target)
    identity = enrolled.proxy.context.canonical(remembered.identity)
    holder = None if identity is None else registry.by_address(remembered.source)
    arrived = InboundAttempt(
        enrolled.workload, remembered.destination, remembered.source, identity, holder, now
    )
    return _Question(arrived, enrolled.workload)


def _forgotten(node: Node) -> str | None:
    """The end of what was forgotten of the last hour."""
    until = max(node.records.attempts.complete_since, node.records.plaintext_peers.seen.complete_since)
    if until <= node.now().timestamp() - WINDOW_SECONDS:
        return None
    return datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds")


async def refused_peers(node: Node, candidate: PolicySet) -> tuple[PlaintextPeer, ...]:
    """Who was let in without an identity in the last hour and would be refused for that.

    Not workloads that are enrolled by now: they come by mutual TLS as soon as that is wanted.
    """
    now = node.now().timestamp()
    refused = []
    for number, peer in enumerate(node.records.plaintext_peers.since(now - WINDOW_SECONDS)):
        is_outside = node.registry.value.by_address(peer.source) is None
        is_let_in = is_outside and _is_refused(node, node.policy.value, peer, now) is False
        if is_let_in and _is_refused(node, candidate, peer, now):
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


def _change(node: Node, question: _Question, candidate: PolicySet) -> _Change | bool | None:
    """What would change for one connection; False when nothing would, None when it cannot be judged."""
    attempt = question.attempt
    before, after = (_decide(policies, attempt) for policies in (node.policy.value, candidate))
    if _word(after) == _REFUSED and (encrypted := _encrypted(node, attempt)) is not None:
        after = candidate.decide_inbound(encrypted)
    if _word(before) == _word(after):
        return False
    by = after.policy or _plaintext_by(candidate, question, after)
    target = question.target
    where = f"{target.key}:{attempt.destination.port}" if target else str(attempt.destination)
    if isinstance(attempt, OutboundAttempt):
        return _Change("outbound", str(attempt.source.key), where, _word(before), _word(after), by)
    holder = node.registry.value.by_address(attempt.source_address)
    source = holder.key if holder is not None and attempt.source_identity else attempt.source_address
    return _Change("inbound", str(source), where, _word(before), _word(after), by)


def _plaintext_by(policies: PolicySet, question: _Question, verdict: Verdict) -> str:
    """The document because of which it would be plaintext, or mutual TLS: an exception, or whatever gave the mode."""
    if isinstance(verdict, Permit) and verdict.exception:
        return verdict.exception
    if question.target is None:
        return ""
    mode = policies.modes.at(question.target, question.attempt.destination.port)
    return str(mode.given_by or "")


def _encrypted(node: Node, attempt: InboundAttempt | OutboundAttempt) -> InboundAttempt | None:
    """The same from a workload that sent plaintext because that was wanted: it will come by mutual TLS."""
    if isinstance(attempt, OutboundAttempt) or attempt.source_identity is not None:
        return None
    holder = node.registry.value.by_address(attempt.source_address)
    if holder is None:
        return None
    return replace(attempt, source_identity=holder.identity, address_holder=holder)


def _decide(policies: PolicySet, attempt: InboundAttempt | OutboundAttempt) -> Verdict:
    if isinstance(attempt, OutboundAttempt):
        return policies.decide_outbound(attempt)
    return policies.decide_inbound(attempt)


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
