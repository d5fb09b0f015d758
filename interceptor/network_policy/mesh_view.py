"""Which pods count as being in the mesh: by the labels of namespaces, by name, or, when nothing is known, nearly all."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final, Self

from interceptor.cluster.membership import AMBIENT, ENABLED, ISTIO_LABEL, MESH_LABEL, NONE
from interceptor.network_policy.model import BlockPeer, Peer, PodPeer
from interceptor.network_policy.selector import Operator, Selector
from interceptor.workload import IPNetwork

NAME_LABEL: Final = "kubernetes.io/metadata.name"  # which the API server gives to every namespace
SYSTEM_NAMESPACES: Final = frozenset(("kube-node-lease", "kube-public", "kube-system"))
# RFC 1918, RFC 6598, RFC 4193: where pods have their addresses, unless somebody says otherwise.
PRIVATE_NETWORKS: Final[tuple[IPNetwork, ...]] = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)


@dataclass(frozen=True, slots=True)
class MeshView:
    """`labels` of the namespaces that are known, and the names of those in the mesh; None when nothing is known.

    Then every namespace counts, except Kubernetes's own: too many findings rather than too few.
    """

    labels: Mapping[str, Mapping[str, str]]
    enrolled: frozenset[str] | None
    networks: tuple[IPNetwork, ...] = PRIVATE_NETWORKS

    @classmethod
    def of(
        cls,
        labels: Mapping[str, Mapping[str, str]],
        to_enrol: Iterable[str] = (),
        networks: tuple[IPNetwork, ...] = (),
    ) -> Self:
        """The view that follows from namespaces with their labels, some that shall be enrolled, and pods' networks."""
        names = frozenset(to_enrol) | {name for name, found in labels.items() if _is_enrolled(found)}
        known = {name: {**found, NAME_LABEL: name} for name, found in labels.items()}
        return cls(known, names if names or labels else None, networks or PRIVATE_NETWORKS)

    def has_pods(self, namespace: str, pods: Selector) -> bool:
        """Whether pods of this namespace that the selector selects may be in the mesh."""
        return self._may_be_enrolled(pods) and self._is_in(namespace)

    def part_of(self, peer: Peer, namespace: str) -> tuple[Peer, ...]:
        """What of a peer may be pods in the mesh; `namespace` is that of the policy."""
        if isinstance(peer, BlockPeer):
            return peer.within(self.networks)
        return (peer,) if self._may_be_peer(peer, namespace) else ()

    def _may_be_peer(self, peer: PodPeer, namespace: str) -> bool:
        if not self._may_be_enrolled(peer.pods):
            return False
        return self._is_in(namespace) if peer.namespaces is None else self._selects_any(peer.namespaces)

    def _is_in(self, namespace: str) -> bool:
        return namespace not in SYSTEM_NAMESPACES if self.enrolled is None else namespace in self.enrolled

    def _selects_any(self, namespaces: Selector) -> bool:
        if self.enrolled is None:
            named = (each for each in namespaces.requirements if each.key == NAME_LABEL)
            return all(each.values - SYSTEM_NAMESPACES for each in named if each.operator is Operator.IN)
        return any(
            namespaces.could_match(self.labels.get(name, {NAME_LABEL: name}), are_all=name in self.labels)
            for name in self.enrolled
        )

    @staticmethod
    def _may_be_enrolled(pods: Selector) -> bool:
        return not (pods.demands(MESH_LABEL, NONE) or pods.demands(ISTIO_LABEL, NONE))


def _is_enrolled(labels: Mapping[str, str]) -> bool:
    """Our label decides; without it, Istio's (istio.io, "Add workloads to an ambient mesh")."""
    ours = labels.get(MESH_LABEL)
    return ours == ENABLED or (ours is None and labels.get(ISTIO_LABEL) == AMBIENT)
