"""NetworkPolicies as frozen values.

Source: kubernetes.io, "Network Policies", and the API reference of networking.k8s.io/v1 NetworkPolicy.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from interceptor.network_policy.selector import EVERYTHING, Selector
from interceptor.workload import MAX_PORT, IPNetwork

TUNNEL_PORT: Final = 15008
TCP: Final = "TCP"


class Side(StrEnum):
    """Which connections of the selected pods a rule is about: those that they take, or those that they make."""

    INGRESS = "ingress"
    EGRESS = "egress"


@dataclass(frozen=True, slots=True)
class PortEntry:
    """One entry of `ports`: the numbers from `first` to `last`, or a `name` that each pod gives its own number to."""

    protocol: str
    first: int = 1
    last: int = MAX_PORT
    name: str | None = None

    @property
    def lets_tunnel_through(self) -> bool:
        """Whether a connection to 15008 matches it (a pod that calls its own port 15008 cannot be in the mesh)."""
        return self.protocol == TCP and self.name is None and self.first <= TUNNEL_PORT <= self.last

    @property
    def is_tunnel(self) -> bool:
        """Whether it means the tunnel's port, and no other."""
        return self.lets_tunnel_through and self.first == self.last

    @property
    def is_every_port(self) -> bool:
        """Whether no port is excluded, so that the tunnel hides nothing from it."""
        return self.name is None and (self.first, self.last) == (1, MAX_PORT)

    def __str__(self) -> str:
        if self.name is not None:
            return f"{self.name}/{self.protocol}"
        if self.is_every_port:
            return f"all/{self.protocol}"
        numbers = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{numbers}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods by their labels, in namespaces by theirs; None for the namespace means that of the policy."""

    pods: Selector = EVERYTHING
    namespaces: Selector | None = None

    def __str__(self) -> str:
        words = [f"pods {self.pods}" if self.pods.requirements else "all pods"]
        if self.namespaces is not None:
            wanted = self.namespaces
            words.append(f"in namespaces {wanted}" if wanted.requirements else "in all namespaces")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class BlockPeer:
    """Addresses: a network without some parts of it."""

    network: IPNetwork
    excepted: tuple[IPNetwork, ...] = ()

    def within(self, networks: tuple[IPNetwork, ...]) -> tuple["BlockPeer", ...]:
        """What of it is inside these networks."""
        # Of two networks one contains the other, or they have nothing in common.
        common = (_common(self.network, each) for each in networks)
        return tuple(
            BlockPeer(part, tuple(each for each in self.excepted if is_inside(each, part)))
            for part in dict.fromkeys(part for part in common if part is not None)
            if not any(is_inside(part, each) for each in self.excepted)
        )

    def __str__(self) -> str:
        excepted = ", ".join(map(str, self.excepted))
        return f"{self.network} except {excepted}" if excepted else str(self.network)


Peer = PodPeer | BlockPeer


def is_inside(inner: IPNetwork, outer: IPNetwork) -> bool:
    """Whether a network is part of, or the same as, another one."""
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _common(one: IPNetwork, other: IPNetwork) -> IPNetwork | None:
    if is_inside(one, other):
        return one
    return other if is_inside(other, one) else None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of `ingress` or `egress`: no peers are all peers, no ports are all ports."""

    peers: tuple[Peer, ...] = ()
    ports: tuple[PortEntry, ...] = ()
    line: int = field(default=0, compare=False)

    @property
    def tcp(self) -> tuple[PortEntry, ...]:
        """The entries that a tunnelled connection can match; other protocols are not tunnelled."""
        return tuple(port for port in self.ports if port.protocol == TCP)

    @property
    def lets_tunnel_through(self) -> bool:
        """Whether connections to 15008 match its ports."""
        return not self.ports or any(port.lets_tunnel_through for port in self.ports)


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """One policy; a side that is None is not restricted by it, an empty one is closed by it."""

    namespace: str
    name: str
    pods: Selector
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    def rules(self, side: Side) -> tuple[Rule, ...]:
        """The rules of one side; none also when it does not restrict that side."""
        return (self.ingress if side is Side.INGRESS else self.egress) or ()

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
