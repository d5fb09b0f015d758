"""What the policy documents say, as frozen values: Istio's two kinds, and the two that Istio lacks.

Sources: istio.io, "Reference / Configuration / Security / PeerAuthentication" and ".../AuthorizationPolicy".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Final

from interceptor.errors import utc
from interceptor.labels import NO_LABELS, Labels
from interceptor.policy.matching import ATTRIBUTE_NAMES, Attribute, Facts, Pattern
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.workload import Direction

ROOT_NAMESPACE: Final = "istio-system"


class Kind(StrEnum):
    """What a document is; the two of Istio have the group security.istio.io, ours policy.interceptor.io."""

    PEER_AUTHENTICATION = "PeerAuthentication"
    AUTHORIZATION_POLICY = "AuthorizationPolicy"
    LEGACY_EXCEPTION = "LegacyException"
    EGRESS_POLICY = "EgressPolicy"


class Action(StrEnum):
    """What an AuthorizationPolicy does with the connections that it matches."""

    ALLOW = "ALLOW"
    DENY = "DENY"


@dataclass(frozen=True, slots=True, order=True)
class PolicyName:
    """What names a document, once in a set; the order is by namespace and name, and decides between equals."""

    namespace: str
    name: str
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document begins."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Head:
    """What all documents have: a name, the labels of the workloads that are meant (none: all), and a place."""

    name: PolicyName
    selector: Labels = NO_LABELS
    place: Place = field(default=Place("", 0), compare=False)


@dataclass(frozen=True, slots=True)
class PeerAuthentication:
    """Which connections a workload takes. A mode of None is UNSET: inherited from the next wider document."""

    head: Head
    mode: MtlsMode | None
    ports: Mapping[int, MtlsMode | None]


@dataclass(frozen=True, slots=True)
class FieldMatch:
    """`values` and `notValues` of one attribute: any of the first (if there are some), and none of the second."""

    attribute: Attribute
    field: str
    patterns: tuple[Pattern, ...] = ()
    not_patterns: tuple[Pattern, ...] = ()

    def matches(self, facts: Facts) -> bool:
        """Whether the connection's attribute is one of those that are meant.

        Plaintext has no identity, so no pattern on principals, namespaces or service accounts matches it, and every
        negative match on them holds: ztunnel decides so, and `notPrincipals: ["*"]` in a DENY is Istio's own way to
        refuse plaintext.
        """
        value = facts.values[self.attribute]
        for pattern in self.not_patterns:
            if pattern.matches(value):
                return False
        if not self.patterns:
            return True
        return any(pattern.matches(value) for pattern in self.patterns)

    def why_not(self, facts: Facts) -> str | None:
        """Why the connection does not match, in words; None when it does."""
        if self.matches(facts):
            return None
        shown = f"{ATTRIBUTE_NAMES[self.attribute]} is {facts.shown(self.attribute)}"
        value = facts.values[self.attribute]
        excluded = next((pattern.text for pattern in self.not_patterns if pattern.matches(value)), None)
        if excluded is not None:
            return f"{shown}, which {self.field} excludes with {excluded}"
        return f"{shown}, not {_listed(self.patterns)} ({self.field})"


Alternative = tuple[FieldMatch, ...]  # all of them
Clause = tuple[Alternative, ...]  # one of them


@dataclass(frozen=True, slots=True)
class Rule:
    """`from`, `to` and each condition of `when` are clauses, all of which must match; without any, it always does.

    "A match occurs when at least one source, one operation and all conditions matches the request. An empty rule is
    always matched." (AuthorizationPolicy, "Rule")
    """

    clauses: tuple[Clause, ...] = ()

    def matches(self, facts: Facts) -> bool:
        """Whether the connection is one that this rule means."""
        for clause in self.clauses:
            for alternative in clause:
                for match in alternative:
                    if not match.matches(facts):
                        break
                else:
                    break
            else:
                return False
        return True

    def why(self, facts: Facts) -> str:
        """What of a connection that matches this rule meant, in words."""
        matched = [
            match
            for clause in self.clauses
            for match in next(each for each in clause if all(match.matches(facts) for match in each))
        ]
        shown = [
            f"{ATTRIBUTE_NAMES[match.attribute]} is {facts.shown(match.attribute)} ({match.field})"
            for match in matched
        ]
        return "; ".join(shown) or "it has no conditions"

    def why_not(self, facts: Facts) -> str | None:
        """Why the connection does not match, in words; None when it does."""
        for clause in self.clauses:
            reasons = [
                next(filter(None, (match.why_not(facts) for match in alternative)), None)
                for alternative in clause
            ]
            if None not in reasons:
                return "; ".join(reason for reason in reasons if reason)
        return None


@dataclass(frozen=True, slots=True)
class AuthorizationPolicy:
    """Who may reach a workload; `dry_run` ones are reported and decide nothing."""

    head: Head
    action: Action
    rules: Sequence[Rule]  # a tuple, or PackedRules
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class LegacyException:
    """Plaintext that is let through for a system that cannot do better, for a reason, by an owner, until a date.

    INBOUND: from `blocks` to `ports` of the workloads. OUTBOUND: from the workloads to `blocks` and `ports`, also when
    nobody is known to have the address.
    """

    head: Head
    direction: Direction
    match: Rule
    reason: str
    owner: str
    expires: datetime

    @property
    def last_day(self) -> str:
        """The last day (UTC) on which it holds, or the moment at which it ends, as it is written in the document."""
        if self.expires.time() == time():
            return str((self.expires - timedelta(days=1)).date())
        return utc(self.expires)

    def holds(self, at: float) -> bool:
        """Whether it has not ended by that time."""
        return at < self.expires.timestamp()


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """Where workloads may connect to, and where never (or also) in plaintext.

    `allow` None says nothing, rules are an allow list, and () allows nothing. The blocks of `refuse_plaintext` are
    refused plaintext whatever agrees to it but a LegacyException, which names who answers for it; those of
    `accept_plaintext` are what this side agrees to.
    """

    head: Head
    allow: tuple[Rule, ...] | None
    refuse_plaintext: tuple[Pattern, ...]
    accept_plaintext: tuple[Pattern, ...]


Document = PeerAuthentication | AuthorizationPolicy | LegacyException | EgressPolicy


def _listed(patterns: tuple[Pattern, ...], most: int = 3) -> str:
    shown = ", ".join(pattern.text for pattern in patterns[:most])
    more = len(patterns) - most
    return f"{shown} or {more} more" if more > 0 else shown
