"""Why a verdict is what it is: every document that was looked at, and why it did or did not match.

The documents are walked one by one, without the indexes that make `PolicySet` fast: a second way to the same verdict,
which the tests hold against the first.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from interceptor.labels import Labels
from interceptor.policy.attempts import InboundAttempt, OutboundAttempt
from interceptor.policy.authorization import Outcome, would_change
from interceptor.policy.documents import (
    Action,
    AuthorizationPolicy,
    Document,
    EgressPolicy,
    LegacyException,
    PeerAuthentication,
    PolicyName,
    Rule,
)
from interceptor.policy.egress import plaintext_consent
from interceptor.policy.matching import Facts
from interceptor.policy.modes import ModeDecision, Width, mode_of, strictest, width_of
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import (
    RESERVED_PORTS,
    AddressCheck,
    PolicySet,
    address_mismatch,
    address_unknown,
    authorization_denial,
    egress_denial,
    inbound_facts,
    outbound_facts,
    plaintext_egress_refused,
    plaintext_refused,
    refuse_destination,
    reserved_port,
    to_nobody_of_ours,
)
from interceptor.policy.verdict import Denial, Permit, Reason, Transport, Verdict
from interceptor.workload import Direction, Workload

D = TypeVar("D", bound=Document)
MOST_RULES: Final = 20  # of one document, in words; more of them no person reads


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at; `passed` is False when the connection fails because of it.

    `matters` is for what the verdict may come from: it is shown whatever else is left out.
    """

    name: str
    text: str
    passed: bool = True
    matters: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """The steps in their order, and the verdict that they lead to."""

    steps: tuple[Step, ...]
    verdict: Verdict


@dataclass(slots=True)
class _Walk:
    """One explanation while it is made."""

    policies: PolicySet
    steps: list[Step] = field(default_factory=list)

    def note(self, name: str, text: str, *, passed: bool = True, matters: bool = False) -> None:
        self.steps.append(Step(name, text, passed, matters))

    def end(self, verdict: Verdict, name: str = "verdict") -> Trace:
        if isinstance(verdict, Denial):
            by = f" ({verdict.policy})" if verdict.policy and verdict.policy not in verdict.detail else ""
            self.note(name, f"{verdict.detail or verdict.reason.explanation}{by}", passed=False)
        elif verdict.dry_run:
            self.note("dry run", verdict.dry_run)
        return Trace(tuple(self.steps), verdict)

    def of_type(self, wanted: type[D], workload: Workload) -> Iterator[D]:
        """The documents of a kind that are in the root namespace or in the workload's, in their order."""
        for document in self.policies.documents:
            within = (self.policies.root_namespace, workload.namespace)
            if isinstance(document, wanted) and document.head.name.namespace in within:
                yield document

    def mode(self, workload: Workload, port: int) -> ModeDecision:
        """The mode of a port, by looking at every PeerAuthentication that could say something."""
        decision = ModeDecision(self.policies.mode, None)
        selecting = []
        for document in self.of_type(PeerAuthentication, workload):
            if missing := _missing(document.head.selector, workload.labels):
                self.note("mode", f"{document.head.name} does not select {workload.key}: {missing}")
            else:
                selecting.append(document)
        if not selecting:
            self.note("mode", f"{decision}, no PeerAuthentication says another")
            return decision
        for width in Width:
            equals = [each for each in selecting if width_of(each, self.policies.root_namespace) is width]
            for document in equals:
                said = mode_of(document, port)
                says = "leaves it unset" if said is None else f"says {said}"
                self.note("mode", f"{document.head.name}, {width}, {says} for port {port}")
            decision = strictest(equals, port, decision)
        self.note("mode", f"so it is {decision}", matters=True)
        return decision

    def exception(
        self, direction: Direction, workload: Workload, facts: Facts, at: float
    ) -> PolicyName | None:
        """The first exception that covers a plaintext connection."""
        found = None
        for document in self.of_type(LegacyException, workload):
            if document.direction is not direction:
                continue
            why_not = _missing(document.head.selector, workload.labels) or document.match.why_not(facts)
            if why_not is None and at >= document.expires.timestamp():
                why_not = f"its last day was {document.last_day} (UTC)"
            outcome = f"does not cover it: {why_not}" if why_not else f"covers it, for {document.owner}"
            self.note("exception", f"{document.head.name} {outcome}", matters=why_not is None)
            if why_not is None and found is None:
                found = document.head.name
        return found

    def authorization(self, workload: Workload, facts: Facts) -> Outcome:
        """What the AuthorizationPolicies say, by looking at each."""
        matched: list[tuple[AuthorizationPolicy, bool]] = []
        for document in self.of_type(AuthorizationPolicy, workload):
            name = document.head.name
            if missing := _missing(document.head.selector, workload.labels):
                self.note("policy", f"{name} does not select {workload.key}: {missing}")
                continue
            why_not = _why_no_rule(document.rules, facts)
            trial = ", in dry run," if document.dry_run else ""
            what = (
                f"matches: {_why(document.rules, facts)}" if why_not is None else f"does not match: {why_not}"
            )
            self.note("policy", f"{name} ({document.action}){trial} {what}", matters=why_not is None)
            matched.append((document, why_not is None))
        in_force = _outcome((policy, match) for policy, match in matched if not policy.dry_run)
        return Outcome(in_force.permitted, in_force.by, would_change(in_force, _outcome(matched)))


def explain_inbound(policies: PolicySet, attempt: InboundAttempt) -> Trace:
    """Each step of `PolicySet.decide_inbound`, and the same verdict."""
    walk = _Walk(policies)
    workload = attempt.destination_workload
    if attempt.destination.port in RESERVED_PORTS:
        return walk.end(reserved_port(attempt.destination), "port")
    if (pending := policies.refuse_pending(workload)) is not None:
        return walk.end(pending, "pending")
    mismatch = address_mismatch(attempt)
    if mismatch and policies.address_check is AddressCheck.REFUSE:
        return walk.end(Denial(Reason.SOURCE_ADDRESS_MISMATCH, mismatch), "address")
    if note := mismatch or address_unknown(attempt):
        walk.note("address", note)
    facts = inbound_facts(attempt)
    mode = walk.mode(workload, attempt.destination.port)
    transport = Transport.PLAINTEXT if attempt.source_identity is None else Transport.MUTUAL_TLS
    exception = None
    if transport is Transport.PLAINTEXT and mode.mode is MtlsMode.STRICT:
        exception = walk.exception(Direction.INBOUND, workload, facts, attempt.at)
        if exception is None:
            return walk.end(plaintext_refused(attempt, mode), "plaintext")
    return _authorize(walk, attempt, facts, Permit(transport, exception=_text(exception), note=note))


def _authorize(walk: _Walk, attempt: InboundAttempt, facts: Facts, permit: Permit) -> Trace:
    outcome = walk.authorization(attempt.destination_workload, facts)
    if not outcome.permitted:
        return walk.end(authorization_denial(attempt, outcome))
    return walk.end(replace(permit, policy=_text(outcome.by), dry_run=outcome.dry_run))


def explain_outbound(policies: PolicySet, attempt: OutboundAttempt) -> Trace:
    """Each step of `PolicySet.decide_outbound`, and the same verdict."""
    walk = _Walk(policies)
    source = attempt.source
    if (refused := refuse_destination(attempt)) is not None:
        return walk.end(refused, "destination")
    if (pending := policies.refuse_pending(source)) is not None:
        return walk.end(pending, "pending")
    facts = outbound_facts(attempt)
    exception = walk.exception(Direction.OUTBOUND, source, facts, attempt.at)
    selected = [policy for policy in walk.of_type(EgressPolicy, source) if _selects(policy, source)]
    permit = _outbound_transport(walk, attempt, facts, selected, exception)
    if isinstance(permit, Denial):
        return walk.end(permit, "plaintext" if attempt.destination_workload else "destination")
    listing = [policy for policy in selected if policy.allow is not None]
    found = None
    for policy in listing:
        why_not = _why_no_rule(policy.allow or (), facts)
        said = f"does not allow it: {why_not}" if why_not else f"allows it: {_why(policy.allow or (), facts)}"
        walk.note("egress", f"{policy.head.name} {said}", matters=not why_not)
        if why_not is None and found is None:
            found = policy.head.name
    if listing and found is None:
        return walk.end(egress_denial(attempt, listing), "egress")
    return walk.end(Permit(permit.transport, _text(found), permit.exception))


def _outbound_transport(
    walk: _Walk,
    attempt: OutboundAttempt,
    facts: Facts,
    selected: list[EgressPolicy],
    exception: PolicyName | None,
) -> Permit | Denial:
    target = attempt.destination_workload
    if target is None:
        if exception is None:
            return to_nobody_of_ours(attempt, selected, facts)
        return Permit(Transport.PLAINTEXT, exception=str(exception))
    mode = walk.mode(target, attempt.destination.port)
    if mode.mode is not MtlsMode.DISABLE:
        return Permit(Transport.MUTUAL_TLS)
    agreed, why = plaintext_consent(selected, attempt.source, facts, mode, walk.policies.modes.mesh_wide())
    walk.note("plaintext", why)
    if agreed:
        return Permit(Transport.PLAINTEXT)
    if exception is not None:
        return Permit(Transport.PLAINTEXT, exception=str(exception))
    return plaintext_egress_refused(why, mode)


def _outcome(matched: Iterable[tuple[AuthorizationPolicy, bool]]) -> Outcome:
    """DENY before ALLOW; the first by name is the one that is named."""
    found = list(matched)
    denied = [policy for policy, match in found if match and policy.action is Action.DENY]
    if denied:
        return Outcome(permitted=False, by=denied[0].head.name)
    if not any(policy.action is Action.ALLOW for policy, _ in found):
        return Outcome(permitted=True, by=None)
    allowed = [policy for policy, match in found if match and policy.action is Action.ALLOW]
    return Outcome(permitted=bool(allowed), by=allowed[0].head.name if allowed else None)


def _why_no_rule(rules: Sequence[Rule], facts: Facts) -> str | None:
    """Why none of the rules matches; None when one does."""
    reasons = []
    for number, rule in enumerate(rules):
        why_not = rule.why_not(facts)
        if why_not is None:
            return None
        reasons.append(f"rule {number}: {why_not}")
    more = f"; and {len(reasons) - MOST_RULES} more rules do not" if len(reasons) > MOST_RULES else ""
    return "; ".join(reasons[:MOST_RULES]) + more if reasons else "it has no rules"


def _why(rules: Sequence[Rule], facts: Facts) -> str:
    """Which of the rules is the first to match, and by what."""
    number, rule = next((number, rule) for number, rule in enumerate(rules) if rule.matches(facts))
    return f"rule {number}: {rule.why(facts)}"


def _missing(selector: Labels, labels: Labels) -> str:
    """The first label that a selector wants and a workload does not have; empty when there is none."""
    for key, value in selector.items():
        if labels.get(key) != value:
            return (
                f"its label {key} is {labels[key]}, not {value}"
                if key in labels
                else f"it has no label {key}={value}"
            )
    return ""


def _selects(document: Document, workload: Workload) -> bool:
    return not _missing(document.head.selector, workload.labels)


def _text(name: PolicyName | None) -> str:
    return "" if name is None else str(name)
