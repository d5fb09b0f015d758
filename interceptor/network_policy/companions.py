"""Policies to put beside those that change: one opens the tunnel's port again, one keeps closed what that opens too much.

A companion NetworkPolicy has the selector and the peers of the rules that stopped matching, and port 15008. Since the
tunnel hides the application's port from it, an AuthorizationPolicy beside it denies tunnelled connections to every port
that no NetworkPolicy of these pods names. Plaintext is not concerned: the rules as they are go on to match it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from interceptor.network_policy.analysis import Effect, Finding
from interceptor.network_policy.documents import authorization_document, network_policy_document
from interceptor.network_policy.mesh_view import MeshView
from interceptor.network_policy.model import NetworkPolicy, Rule, Side
from interceptor.network_policy.restricted import NotRestricted, named_ports

SUFFIX: Final = "-tunnel"
MAX_NAME_LENGTH: Final = 253


@dataclass(frozen=True, slots=True)
class Companion:
    """One document to apply, and what a reader should know of it; None where there is nothing that would help."""

    document: dict[str, Any] | None
    remarks: tuple[str, ...]


def companions(
    findings: Iterable[Finding], policies: Iterable[NetworkPolicy], mesh: MeshView
) -> tuple[Companion, ...]:
    """What to apply beside `policies`, from which the findings are. Analysed together, no rule stops matching."""
    listed = tuple(policies)
    return tuple(_Naming(listed, mesh).companions(findings))


class _Naming:
    """Makes the companions of one set of policies; names that are taken are not used again."""

    def __init__(self, policies: tuple[NetworkPolicy, ...], mesh: MeshView) -> None:
        self._mesh = mesh
        self._by_namespace: defaultdict[str, list[NetworkPolicy]] = defaultdict(list)
        for policy in policies:
            self._by_namespace[policy.namespace].append(policy)
        self._taken = {(policy.namespace, policy.name) for policy in policies}
        self._restricted: set[tuple[str, object]] = set()

    def companions(self, findings: Iterable[Finding]) -> Iterator[Companion]:
        for policy, found in groupby(findings, key=lambda finding: finding.policy):
            yield from self._beside(policy, tuple(found))

    def _beside(self, policy: NetworkPolicy, findings: tuple[Finding, ...]) -> Iterator[Companion]:
        name = self._name(policy)
        inbound = any(finding.side is Side.INGRESS for finding in findings)
        restriction = self._restriction(policy, name) if inbound else None
        if isinstance(restriction, Companion):
            yield restriction  # first: what is opened below must not be open too far for a moment
        opening = [finding for finding in findings if finding.effect is Effect.STOPS_MATCHING]
        if opening:
            remarks = [
                f"Opens the tunnel's port to whom {policy} lets in or out ({policy.file}:{policy.line})."
            ]
            if isinstance(restriction, str):
                remarks.append(f"Nothing restricts the ports behind the tunnel: {restriction}.")
            if any(finding.side is Side.EGRESS for finding in opening):
                remarks.append(
                    "The ports that may be reached through the tunnel are for the receiving side to restrict."
                )
            yield Companion(network_policy_document(policy, name, opening), tuple(remarks))
        elif isinstance(restriction, str):
            yield Companion(None, (f"The tunnel is open too far in {policy}, and stays so: {restriction}.",))

    def _restriction(self, policy: NetworkPolicy, name: str) -> Companion | str | None:
        """A policy that keeps the pods' other ports closed, or why there can be none; None when one was made already."""
        labels = policy.pods.as_labels()
        if labels is None:
            return "an AuthorizationPolicy selects by labels alone, and this selector has expressions"
        if (policy.namespace, policy.pods) in self._restricted:
            return None
        try:
            ports = named_ports(self._rules_of_same_pods(policy))
        except NotRestricted as error:
            return str(error)
        self._restricted.add((policy.namespace, policy.pods))
        return Companion(
            authorization_document(policy.namespace, name, labels, ports),
            (f"Keeps the ports closed that no NetworkPolicy of the pods of {policy} names.",),
        )

    def _rules_of_same_pods(self, policy: NetworkPolicy) -> Iterator[tuple[NetworkPolicy, int, Rule]]:
        """The ingress rules, with their numbers, by which the mesh may reach pods that `policy` selects too."""
        for other in self._by_namespace[policy.namespace]:
            if other.pods.could_overlap(policy.pods):
                for number, rule in enumerate(other.rules(Side.INGRESS)):
                    if not rule.peers or any(
                        self._mesh.part_of(peer, other.namespace) for peer in rule.peers
                    ):
                        yield other, number, rule

    def _name(self, policy: NetworkPolicy) -> str:
        stem = policy.name[: MAX_NAME_LENGTH - len(SUFFIX) - 6].rstrip("-.")
        name, number = f"{stem}{SUFFIX}", 1
        while (policy.namespace, name) in self._taken:
            number += 1
            name = f"{stem}{SUFFIX}-{number}"
        self._taken.add((policy.namespace, name))
        return name
