"""The source's side: may this workload connect there at all, and may it send plaintext there?

Istio decides at the destination only. Two things it lacks: an allow list of where a workload may go, and a source that
does not send plaintext just because somebody else's document says so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from interceptor.labels import Labels
from interceptor.policy.documents import EgressPolicy, LegacyException, PolicyName
from interceptor.policy.matching import Attribute, Facts, Pattern
from interceptor.policy.modes import ModeDecision
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.scope import Scope, selects
from interceptor.workload import Direction, Workload


@dataclass(frozen=True, slots=True)
class Exceptions:
    """All LegacyExceptions of a set."""

    _scope: Scope[tuple[LegacyException, ...]]

    @classmethod
    def of(cls, documents: Iterable[LegacyException], root: str) -> Self:
        """`documents` in the order of their names."""
        return cls(Scope.of(documents, root, lambda group: group))

    def covering(
        self, direction: Direction, workload: Workload, facts: Facts, at: float
    ) -> PolicyName | None:
        """The exception that lets a plaintext connection of this workload through at that time, if there is one."""
        found = [
            document.head.name
            for group in self._scope.around(workload.namespace, workload.labels)
            for document in group
            if document.direction is direction
            and selects(document, workload.labels)
            and document.covers(facts, at)
        ]
        return min(found, default=None)


@dataclass(frozen=True, slots=True)
class Egress:
    """All EgressPolicies of a set."""

    _scope: Scope[tuple[EgressPolicy, ...]]

    @classmethod
    def of(cls, documents: Iterable[EgressPolicy], root: str) -> Self:
        """`documents` in the order of their names."""
        return cls(Scope.of(documents, root, lambda group: group))

    def applicable(self, source: Workload) -> list[EgressPolicy]:
        """The policies that select this workload, in the order of their names."""
        found = [
            document
            for group in self._scope.around(source.namespace, source.labels)
            for document in group
            if selects(document, source.labels)
        ]
        return sorted(found, key=lambda document: document.head.name)

    def restricting(self, namespace: str, labels: Labels) -> list[EgressPolicy]:
        """Those of the policies that select such a workload which can deny anything, in no order."""
        return [
            document
            for group in self._scope.around(namespace, labels)
            for document in group
            if restricts(document) and selects(document, labels)
        ]


def restricts(policy: EgressPolicy) -> bool:
    """Whether a policy can deny anything: then it must be asked about everything that its workloads connect to."""
    return policy.allow is not None or bool(policy.refuse_plaintext)


def allowed_by(policies: list[EgressPolicy], facts: Facts) -> tuple[bool, PolicyName | None]:
    """Whether the allow lists let the connection out, and which did; without any list, everything may go."""
    listing = [policy for policy in policies if policy.allow is not None]
    if not listing:
        return True, None
    for policy in listing:
        if any(rule.matches(facts) for rule in policy.allow or ()):
            return True, policy.head.name
    return False, None


def plaintext_consent(
    policies: list[EgressPolicy], source: Workload, facts: Facts, mode: ModeDecision, mesh_wide: ModeDecision
) -> tuple[bool, str]:
    """Whether the source's side agrees to send plaintext there, and why (not).

    A refusal of its own wins. It agrees when an EgressPolicy of its own says so, when the whole mesh is in mode
    DISABLE, or when the document that wants plaintext is of its own namespace: a document of another namespace must
    not make this workload send what it has in plaintext.
    """
    if (refusing := refusing_plaintext(policies, facts)) is not None:
        return False, refusal_of_plaintext(refusing, facts)
    for policy in policies:
        if _contains(policy.accept_plaintext, facts):
            return True, f"{policy.head.name} accepts plaintext to {facts.destination.address}"
    if mesh_wide.mode is MtlsMode.DISABLE:
        return True, "the whole mesh is in mode DISABLE"
    assert mode.given_by is not None, "what is not mesh-wide is in a document"
    if mode.given_by.namespace == source.namespace:
        return True, f"{mode.given_by} is of the source's own namespace"
    return False, f"{mode.given_by} wants plaintext and is of another namespace than {source.key}"


def refusing_plaintext(policies: list[EgressPolicy], facts: Facts) -> PolicyName | None:
    """Which of the source's policies refuses plaintext there; None when none does."""
    return next((policy.head.name for policy in policies if _contains(policy.refuse_plaintext, facts)), None)


def refusal_of_plaintext(by: PolicyName, facts: Facts) -> str:
    """Why there is no plaintext, in a sentence."""
    return f"{by} refuses plaintext to {facts.destination.address}"


def _contains(blocks: tuple[Pattern, ...], facts: Facts) -> bool:
    value = facts.values[Attribute.DESTINATION_IP]
    return any(block.matches(value) for block in blocks)
