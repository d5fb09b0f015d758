"""The AuthorizationPolicies of a set, and what they say about a connection.

The order is Istio's (AuthorizationPolicy): "1. (CUSTOM, which we refuse to load.) 2. If there are any DENY policies that
match the request, deny the request. 3. If there are no ALLOW policies for the workload, allow the request. 4. If any of
the ALLOW policies match the request, allow the request. 5. Deny the request."
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from interceptor.labels import Labels
from interceptor.policy.documents import Action, AuthorizationPolicy, PolicyName
from interceptor.policy.matching import Facts
from interceptor.policy.rule_index import RuleIndex
from interceptor.policy.scope import Scope
from interceptor.workload import Workload

_Numbered = tuple[int, AuthorizationPolicy]  # by its place in the set


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the policies say: `permitted`, by which policy (None: by none), and what those in dry run would change."""

    permitted: bool
    by: PolicyName | None
    dry_run: str = ""


@dataclass(frozen=True, slots=True)
class _Group:
    """Policies that are filed together, by what they do."""

    deny: RuleIndex[AuthorizationPolicy]
    allow: RuleIndex[AuthorizationPolicy]
    allow_selectors: tuple[Labels, ...]
    trial: "_Group | None"  # those in dry run

    @classmethod
    def of(cls, policies: Iterable[tuple[int, AuthorizationPolicy]]) -> Self:
        numbered = tuple(policies)
        in_force = [(n, policy) for n, policy in numbered if not policy.dry_run]
        on_trial = [(n, policy) for n, policy in numbered if policy.dry_run]
        return cls(
            deny=_index(in_force, Action.DENY),
            allow=_index(in_force, Action.ALLOW),
            allow_selectors=_allow_selectors(in_force),
            trial=cls._on_trial(on_trial) if on_trial else None,
        )

    @classmethod
    def _on_trial(cls, policies: list[_Numbered]) -> Self:
        return cls(
            _index(policies, Action.DENY), _index(policies, Action.ALLOW), _allow_selectors(policies), None
        )


@dataclass(frozen=True, slots=True)
class Authorization:
    """All AuthorizationPolicies of a set, indexed."""

    _scope: Scope[_Group]

    @classmethod
    def of(cls, policies: Iterable[AuthorizationPolicy], root: str) -> Self:
        """`policies` in the order of their names."""
        ordered = tuple(policies)
        order = {policy.head.name: number for number, policy in enumerate(ordered)}
        return cls(Scope.of(ordered, root, lambda found: _Group.of((order[p.head.name], p) for p in found)))

    def decide(self, workload: Workload, facts: Facts) -> Outcome:
        """May this connection reach the workload?"""
        groups = self._scope.around(workload.namespace, workload.labels)
        outcome = _decide(groups, workload.labels, facts)
        trials = tuple(group.trial for group in groups if group.trial is not None)
        if not trials:
            return outcome
        changed = _decide((*groups, *trials), workload.labels, facts)
        return Outcome(outcome.permitted, outcome.by, would_change(outcome, changed))


def _decide(groups: tuple[_Group, ...], labels: Labels, facts: Facts) -> Outcome:
    denial = _first((group.deny for group in groups), labels, facts)
    if denial is not None:
        return Outcome(permitted=False, by=denial)
    if not any(selector.pairs <= labels.pairs for group in groups for selector in group.allow_selectors):
        return Outcome(permitted=True, by=None)
    allowance = _first((group.allow for group in groups), labels, facts)
    return Outcome(permitted=allowance is not None, by=allowance)


def would_change(outcome: Outcome, changed: Outcome) -> str:
    """What would be otherwise if the policies in dry run were in force, as in `changed`; empty when nothing would."""
    if changed.permitted == outcome.permitted:
        return ""
    if changed.permitted:
        return f"{changed.by}, in dry run, would permit it"
    if changed.by is None:
        return "no ALLOW policy would match if those in dry run were in force"
    return f"{changed.by}, in dry run, would deny it"


def _index(policies: list[_Numbered], action: Action) -> RuleIndex[AuthorizationPolicy]:
    return RuleIndex.of((n, policy, policy.rules) for n, policy in policies if policy.action is action)


def _allow_selectors(policies: list[_Numbered]) -> tuple[Labels, ...]:
    return tuple({policy.head.selector for _, policy in policies if policy.action is Action.ALLOW})


def _first(
    indexes: Iterable[RuleIndex[AuthorizationPolicy]], labels: Labels, facts: Facts
) -> PolicyName | None:
    found = [match for index in indexes if (match := index.first_match(facts, labels)) is not None]
    return min(found, key=lambda match: match[0])[1].head.name if found else None
