"""A pod that runs, and whose address the API does not show yet.

The kubelet reports a pod's address only after it has started all of its containers, and a postStart hook is part of
that: what such a hook does, or is asked, comes before the address. So the address is taken from the pod's namespace,
where the network plugin has put it before any process of the pod began.

Whoever may administer that namespace can have another one there. So only an address of the mesh counts that nobody is
known to have, and only until the API shows who has it (see `steps`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from interceptor.cluster.cluster import Cluster
from interceptor.node_pods.pods import NodePod
from interceptor.workload import IPAddress, IPNetwork


def with_found_addresses(
    pods: Mapping[str, NodePod],
    found: Mapping[str, Sequence[IPAddress]],
    cluster: Cluster,
    cidrs: Sequence[IPNetwork],
) -> dict[str, NodePod]:
    """The pods, those that wait for an address with the ones that were found in their namespaces, by UID.

    A pod has one address of each family, the first that its link has (kubernetes.io, "IPv4/IPv6 dual-stack"). One of
    which an address is not certain to be free goes on waiting.
    """
    return {uid: _addressed(pod, found.get(uid, ()), cluster, cidrs) for uid, pod in pods.items()}


def _addressed(
    pod: NodePod, found: Sequence[IPAddress], cluster: Cluster, cidrs: Sequence[IPNetwork]
) -> NodePod:
    if pod.unaddressed is None:
        return pod
    addresses = tuple(_first_of_each_family(found))
    if not addresses or not all(_is_free(address, cluster, cidrs) for address in addresses):
        return pod
    return replace(pod, workload=replace(pod.unaddressed, addresses=addresses))


def _first_of_each_family(found: Iterable[IPAddress]) -> Iterable[IPAddress]:
    seen: dict[int, IPAddress] = {}
    for address in found:
        if not address.is_link_local:
            seen.setdefault(address.version, address)
    return seen.values()


def _is_free(address: IPAddress, cluster: Cluster, cidrs: Sequence[IPNetwork]) -> bool:
    """Whether it is one of the mesh, and nobody's."""
    return any(address in cidr for cidr in cidrs) and cluster.is_nobodys(address)
