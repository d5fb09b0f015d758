"""The source's side: may this workload connect there at all, and may it send plaintext there?

Istio decides at the destination only. Two things it lacks: an allow list of where a workload may go, and a source that
does not send plaintext just because somebody else's document says so.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self, TypeVar

from interceptor.labels import Labels
from interceptor.policy.documents import EgressPolicy, FieldMatch, LegacyException, PolicyName, Rule
from interceptor.policy.matching import Attribute, Facts, Pattern
from interceptor.policy.modes import ModeDecision
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.remembered import Remembered
from interceptor.policy.rule_index import RuleIndex
from interceptor.policy.scope import Scope, selects
from interceptor.workload import Direction, Workload


@dataclass(frozen=True, slots=True)
class Exceptions:
    """All LegacyExceptions of a set."""

    _scope: Scope[dict[Direction, RuleIndex[LegacyException]]]

    @classmethod
    def of(cls, documents: Iterable[LegacyException], root: str) -> Self:
        """`documents` in the order of their names."""
        ordered = tuple(documents)
        order = _order(ordered)

        def index(found: tuple[LegacyException, ...]) -> dict[Direction, RuleIndex[LegacyException]]:
            return {
                direction: RuleIndex.of(
                    (order[document.head.name], document, (document.match,))
                    for document in found
                    if document.direction is direction
                )
                for direction in Direction
            }

        return cls(Scope.of(ordered, root, index))

    def covering(
        self, direction: Direction, workload: Workload, facts: Facts, at: float
    ) -> PolicyName | None:
        """The exception that lets a plaintext connection of this workload through at that time, if there is one."""
        groups = self._scope.around(workload.namespace, workload.labels)
        indexes = (group[direction] for group in groups)
        found = _first(indexes, workload.labels, facts, lambda document: document.holds(at))
        return None if found is None else found.head.name


@dataclass(frozen=True, slots=True)
class _EgressGroup:
    """Policies that are filed together, each under all that it says."""

    documents: tuple[EgressPolicy, ...]
    allow: RuleIndex[EgressPolicy]
    refuse: RuleIndex[EgressPolicy]
    accept: RuleIndex[EgressPolicy]
    allow_selectors: tuple[Labels, ...]

    @classmethod
    def of(cls, documents: tuple[EgressPolicy, ...], order: dict[PolicyName, int]) -> Self:
        """`documents` in the order of their names."""

        def index(rules_of: Callable[[EgressPolicy], tuple[Rule, ...]]) -> RuleIndex[EgressPolicy]:
            return RuleIndex.of((order[each.head.name], each, rules_of(each)) for each in documents)

        return cls(
            documents,
            allow=index(lambda policy: policy.allow or ()),
            refuse=index(lambda policy: _to_blocks(policy.refuse_plaintext)),
            accept=index(lambda policy: _to_blocks(policy.accept_plaintext)),
            allow_selectors=tuple({each.head.selector for each in documents if each.allow is not None}),
        )


@dataclass(frozen=True, slots=True)
class Egress:
    """All EgressPolicies of a set."""

    _scope: Scope[_EgressGroup]
    _listing: Remembered[tuple[str, Labels], list[EgressPolicy]] = field(
        default_factory=Remembered, compare=False, repr=False
    )

    @classmethod
    def of(cls, documents: Iterable[EgressPolicy], root: str) -> Self:
        """`documents` in the order of their names."""
        ordered = tuple(documents)
        order = _order(ordered)
        return cls(Scope.of(ordered, root, lambda group: _EgressGroup.of(group, order)))

    def listing(self, source: Workload) -> list[EgressPolicy]:
        """The policies that select this workload and have an allow list, in the order of their names."""
        return self._listing.get((source.namespace, source.labels), lambda: self._find_listing(source))

    def _find_listing(self, source: Workload) -> list[EgressPolicy]:
        found = [
            document
            for group in self._scope.around(source.namespace, source.labels)
            for document in group.documents
            if document.allow is not None and selects(document, source.labels)
        ]
        return sorted(found, key=lambda document: document.head.name)

    def restricting(self, namespace: str, labels: Labels) -> list[EgressPolicy]:
        """Those of the policies that select such a workload which can deny anything, in no order."""
        return [
            document
            for group in self._scope.around(namespace, labels)
            for document in group.documents
            if restricts(document) and selects(document, labels)
        ]

    def allows(self, source: Workload, facts: Facts) -> tuple[bool, PolicyName | None]:
        """Whether the allow lists let the connection out, and which did; without any list, everything may go."""
        groups = self._scope.around(source.namespace, source.labels)
        found = _first((group.allow for group in groups), source.labels, facts)
        if found is not None:
            return True, found.head.name
        pairs = source.labels.pairs
        return not any(each.pairs <= pairs for group in groups for each in group.allow_selectors), None

    def about_plaintext(self, source: Workload, facts: Facts) -> list[EgressPolicy]:
        """Of the policies that select this workload those that decide about plaintext there: at most two."""
        groups = self._scope.around(source.namespace, source.labels)
        refusing = _first((group.refuse for group in groups), source.labels, facts)
        accepting = _first((group.accept for group in groups), source.labels, facts)
        return [policy for policy in (refusing, accepting) if policy is not None]


def restricts(policy: EgressPolicy) -> bool:
    """Whether a policy can deny anything: then it must be asked about everything that its workloads connect to."""
    return policy.allow is not None or bool(policy.refuse_plaintext)


D = TypeVar("D", EgressPolicy, LegacyException)


def _order(documents: Iterable[EgressPolicy | LegacyException]) -> dict[PolicyName, int]:
    return {document.head.name: number for number, document in enumerate(documents)}


def _first(
    indexes: Iterable[RuleIndex[D]], labels: Labels, facts: Facts, holds: Callable[[D], bool] = lambda _: True
) -> D | None:
    found = [match for index in indexes if (match := index.first_match(facts, labels, holds)) is not None]
    return min(found, key=lambda match: match[0])[1] if found else None


def _to_blocks(blocks: tuple[Pattern, ...]) -> tuple[Rule, ...]:
    """What goes to these blocks, as a rule."""
    match = FieldMatch(Attribute.DESTINATION_IP, "cidrs", blocks)
    return (Rule((((match,),),)),) if blocks else ()


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
