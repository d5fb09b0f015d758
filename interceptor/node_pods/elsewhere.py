"""The workloads of all other nodes, as the registry asks for them: looked up in the cluster's snapshot at that moment.

Nothing is made when the snapshot changes, so twenty thousand pods cost no more than twenty.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from interceptor.cluster.cluster import Cluster
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.pod import Pod
from interceptor.cluster.workloads import unaddressed_workload, workload_of
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.workload import IPAddress, IPNetwork, Workload, WorkloadKey

MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """One snapshot as the `Others` of a registry.

    Only addresses inside `cidrs` count: another one is not captured, so nobody may rely on who has it.
    """

    cluster: Cluster
    node: str
    trust_domain: TrustDomain
    cidrs: tuple[IPNetwork, ...]

    def get(self, key: WorkloadKey) -> Workload | None:
        """The workload of that key."""
        return self._workload(self.cluster.pods.get(ObjectKey(key.namespace, key.name)))

    def by_address(self, address: IPAddress) -> Workload | None:
        """The workload that has this address, of which the API must be certain."""
        return self._workload(self.cluster.pod_at(address)) if _is_inside(address, self.cidrs) else None

    def newcomer(self, address: IPAddress, identity: SpiffeId) -> Workload | None:
        """A pod of that identity of which the API shows no address yet, if nobody has this one by the API.

        What it does before the kubelet has told its address (see `unshown`) is done from an address that nobody knows.
        """
        if not _is_inside(address, self.cidrs) or not self.cluster.is_nobodys(address):
            return None
        account = ObjectKey(identity.namespace, identity.service_account)
        for pod in self.cluster.pods_without_address(account):
            workload = unaddressed_workload(self.cluster, pod, self.trust_domain)
            if workload is not None and workload.identity == identity and pod.node != self.node:
                return replace(workload, addresses=(address,))
        return None

    def everyone(self) -> Iterable[Workload]:
        """All of them."""
        found = (self._workload(pod) for pod in self.cluster.pods.objects.values())
        return (workload for workload in found if workload is not None)

    def holdings(self) -> Iterable[tuple[IPAddress, Workload]]:
        """None: the API takes a pod away after it has ended."""
        return ()

    def _workload(self, pod: Pod | None) -> Workload | None:
        if pod is None or pod.node == self.node:
            return None
        workload = workload_of(self.cluster, pod, self.trust_domain)
        if workload is None:
            return None
        inside = tuple(address for address in workload.addresses if _is_inside(address, self.cidrs))
        if not inside:
            return None
        return Workload(workload.key, workload.identity, inside, workload.node, workload.labels)


def pods_outside_cidrs(cluster: Cluster, trust_domain: TrustDomain, cidrs: Sequence[IPNetwork]) -> str | None:
    """One line about the pods in the mesh with addresses that are not captured, None when there are none."""
    found = sorted(_outside(cluster, trust_domain, cidrs))
    if not found:
        return None
    named = ", ".join(f"{key} ({address})" for key, address in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return f"mesh.cidrs does not hold the addresses of {named}{more}: connections to them are not protected, add their network"


def _outside(
    cluster: Cluster, trust_domain: TrustDomain, cidrs: Sequence[IPNetwork]
) -> Iterator[tuple[ObjectKey, str]]:
    for pod in cluster.pods.objects.values():
        for address in pod.own_addresses:
            if not _is_inside(address, cidrs) and workload_of(cluster, pod, trust_domain) is not None:
                yield pod.head.key, str(address)


def _is_inside(address: IPAddress, cidrs: Iterable[IPNetwork]) -> bool:
    return any(address in cidr for cidr in cidrs)
