"""Which rules of NetworkPolicies change their meaning, because connections of the mesh arrive on port 15008.

The packets that a NetworkPolicy sees go from pod to pod as before, only to another port (istio.io, "Ambient and
Kubernetes NetworkPolicy"). So peers keep their meaning; `ports` do not:

- a rule whose TCP ports leave 15008 out no longer matches tunnelled connections, and what it allowed is dropped;
- a rule whose range of ports happens to contain 15008 lets tunnelled connections to every port through.

Rules without ports, rules for other protocols (not tunnelled), and peers outside of the mesh keep their meaning.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from interceptor.network_policy.mesh_view import MeshView
from interceptor.network_policy.model import NetworkPolicy, Peer, PortEntry, Rule, Side
from interceptor.network_policy.opened import is_opened


class Effect(StrEnum):
    """How a rule's meaning changes."""

    STOPS_MATCHING = "stops_matching"
    EVERY_PORT = "every_port"

    @property
    def explanation(self) -> str:
        """One sentence for a person."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Effect.STOPS_MATCHING: "what these ports let through uses port 15008 now, and is dropped",
    Effect.EVERY_PORT: "the range contains 15008, so what comes through the tunnel may reach every port",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that changes: `ports` are the entries that do, `peers` those that may be in the mesh (none: all)."""

    policy: NetworkPolicy
    side: Side
    number: int
    rule: Rule
    effect: Effect
    ports: tuple[PortEntry, ...]
    peers: tuple[Peer, ...]

    @property
    def name(self) -> str:
        """Where in the policy: `ingress[0]`."""
        return f"{self.side}[{self.number}]"

    @property
    def place(self) -> str:
        """File and line of the rule."""
        return f"{self.policy.file}:{self.rule.line}"


def analyse(policies: Iterable[NetworkPolicy], mesh: MeshView) -> tuple[Finding, ...]:
    """Every rule that changes its meaning, in the order of the policies.

    A rule that stops matching is not told of if another one lets its peers reach 15008 of its pods: nothing is dropped.
    """
    by_namespace: dict[str, list[NetworkPolicy]] = {}
    listed = tuple(policies)
    for policy in listed:
        by_namespace.setdefault(policy.namespace, []).append(policy)
    return tuple(
        finding
        for policy in listed
        if mesh.has_pods(policy.namespace, policy.pods)
        for finding in _findings(policy, by_namespace[policy.namespace], mesh)
    )


def _findings(policy: NetworkPolicy, siblings: list[NetworkPolicy], mesh: MeshView) -> Iterator[Finding]:
    for side in Side:
        for number, rule in enumerate(policy.rules(side)):
            peers = tuple(part for peer in rule.peers for part in mesh.part_of(peer, policy.namespace))
            if rule.peers and not peers:
                continue
            found = _effect(rule)
            if found is None:
                continue
            effect, ports = found
            if effect is Effect.STOPS_MATCHING and is_opened(policy, side, peers, siblings):
                continue
            yield Finding(policy, side, number, rule, effect, ports, peers)


def _effect(rule: Rule) -> tuple[Effect, tuple[PortEntry, ...]] | None:
    tcp = rule.tcp
    if not tcp or any(port.is_every_port or port.is_tunnel for port in tcp):
        return None
    ranges = tuple(port for port in tcp if port.lets_tunnel_through)
    return (Effect.EVERY_PORT, ranges) if ranges else (Effect.STOPS_MATCHING, tcp)
