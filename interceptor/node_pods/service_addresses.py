"""The addresses of services that must be captured although they lie outside of the mesh's ranges.

Whoever connects to one is to reach a pod of the mesh by its tunnel, before kube-proxy would translate the address.
"""

from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import Final

from interceptor.cluster.cluster import Cluster
from interceptor.cluster.membership import why_namespace_is_outside
from interceptor.workload import IPAddress, IPNetwork

MAX_ADDRESSES: Final = 8192  # the kernel's map takes twice as many prefixes


def service_networks(cluster: Cluster, cidrs: Iterable[IPNetwork]) -> tuple[frozenset[IPNetwork], str | None]:
    """One network for each address beyond `cidrs` of the services in namespaces of the mesh; and what is wrong, if anything.

    Namespaces of which nothing is known count too; which of a service's pods are in the mesh is asked when somebody
    connects. Of too many the highest are left out.
    """
    ranges = tuple(cidrs)
    found = sorted(set(_addresses(cluster, ranges)), key=lambda address: (address.version, int(address)))
    problem = (
        f"{len(found)} addresses of services lie outside of mesh.cidrs, connections to {found[MAX_ADDRESSES]} and above "
        "are not protected: add their networks"
        if len(found) > MAX_ADDRESSES
        else None
    )
    return frozenset(ip_network(address) for address in found[:MAX_ADDRESSES]), problem


def _addresses(cluster: Cluster, ranges: tuple[IPNetwork, ...]) -> Iterator[IPAddress]:
    for service in cluster.services.objects.values():
        beyond = [a for a in service.addresses if not any(a in cidr for cidr in ranges)]
        if beyond:
            namespace = cluster.namespace_of(service)
            if namespace is None or why_namespace_is_outside(namespace) is None:
                yield from beyond
