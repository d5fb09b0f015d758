"""Services by their DNS names (kubernetes.io, "DNS for Services and Pods")."""

from typing import Final

from interceptor.cluster.cluster import Cluster
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.service import Service
from interceptor.errors import InvalidInput, quoted
from interceptor.workload import IPAddress

_KIND: Final = "svc"


def addresses_of_name(cluster: Cluster, name: str, namespace: str) -> tuple[IPAddress, ...]:
    """The addresses that DNS gives a pod of `namespace` for a service's name, or one below a headless service.

    `web`, `web.shop`, `web.shop.svc` and `web.shop.svc.cluster.local`, and the same after `hostname.` for one pod of a
    headless service. Raises InvalidInput for a name that is no service's.
    """
    labels = name.split(".")
    is_qualified = _KIND in labels
    if is_qualified:
        labels = labels[: labels.index(_KIND)]
    own = [] if is_qualified else [namespace]  # what the search list of a pod adds first
    for path in ([*labels, *own], labels):
        found = _addresses_of_path(cluster, path)
        if found is not None:
            return found
    raise InvalidInput(
        f"{quoted(name)} is no service seen from namespace {namespace}, give SERVICE.NAMESPACE"
    )


def _addresses_of_path(cluster: Cluster, path: list[str]) -> tuple[IPAddress, ...] | None:
    """The addresses of `name.namespace` or `hostname.name.namespace`; None when there is no such service."""
    if len(path) not in (2, 3):
        return None
    service = cluster.services.get(ObjectKey(path[-1], path[-2]))
    hostname = path[0] if len(path) == 3 else None
    if service is None or (hostname and not service.is_headless):
        return None
    return _addresses(cluster, service, hostname)


def _addresses(cluster: Cluster, service: Service, hostname: str | None) -> tuple[IPAddress, ...]:
    """A headless service's are those of its ready endpoints, every other's its own."""
    if not service.is_headless:
        return service.cluster_addresses
    return tuple(
        backend.address
        for each in cluster.slices_of(service)
        for backend in each.backends
        if backend.is_ready and hostname in (None, backend.hostname)
    )
