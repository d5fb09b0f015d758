"""Where a connection to a service leads: a pod, chosen as kube-proxy would choose it, before it does.

The tunnel ends at a pod, so what the application dialled must be a pod's address by then. The rules are those of
kubernetes.io, "Virtual IPs and Service Proxies": ready endpoints; when there is none, those that serve while they end;
`internalTrafficPolicy: Local` for the cluster's own addresses; hints for nodes or zones when every ready endpoint has
them and one is for ours. A service of which nothing is in the mesh is left to kube-proxy.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from interceptor.cluster.cluster import Cluster
from interceptor.cluster.endpoint_slice import Backend
from interceptor.cluster.membership import membership, why_namespace_is_outside
from interceptor.cluster.pod import Pod
from interceptor.cluster.service import Service, ServicePort
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.workload import Endpoint, IPAddress, IPNetwork


class Outcome(StrEnum):
    """The closed set of answers."""

    POD = "pod"  # it is a pod's own address already, also one of a headless service
    SERVICE = "service"  # to one of the candidates
    NO_CANDIDATE = (
        "no_candidate"  # a service in the mesh without a pod that may be used now: wait, then refuse
    )
    NO_SUCH_PORT = "no_such_port"  # a service in the mesh that has not this port: refuse
    UNTOUCHED = "untouched"  # nothing of ours: kube-proxy's, or no service's address at all


@dataclass(frozen=True, slots=True)
class Client:
    """From where the connection comes; `zone` is its node's, None when that is not known."""

    node: str
    zone: str | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod that may be used; `pod` is None for an address outside of the cluster's pods."""

    endpoint: Endpoint
    pod: Pod | None


@dataclass(frozen=True, slots=True)
class Resolution:
    """The answer, and what it was made of."""

    outcome: Outcome
    service: Service | None = None
    port: ServicePort | None = None
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class _Target:
    """A backend, who is there, and whether that is certain."""

    backend: Backend
    candidate: Candidate
    is_certain: bool


def resolve(
    cluster: Cluster,
    destination: Endpoint,
    client: Client,
    trust_domain: TrustDomain,
    mesh: Iterable[IPNetwork] = (),
) -> Resolution:
    """Say where a connection may lead; in the ranges `mesh` an address of which nothing is known may be a new pod's."""
    pod = cluster.pod_at(destination.address)
    if pod is not None:
        return Resolution(Outcome.POD, candidates=(Candidate(destination, pod),))
    service = cluster.service_at(destination.address)
    if service is None or cluster.pods.find(destination.address):  # of several pods it is no service's either
        return Resolution(Outcome.UNTOUCHED)
    port = service.port(destination.port)
    targets = tuple(_targets(cluster, service, port, destination.address, tuple(mesh)))
    if not _is_in_mesh(cluster, service, targets, trust_domain):
        return Resolution(Outcome.UNTOUCHED, service, port)
    if port is None:
        return Resolution(Outcome.NO_SUCH_PORT, service)
    is_local = service.is_node_local and destination.address in service.cluster_addresses
    eligible = _eligible(targets, client, is_local=is_local)
    outcome = Outcome.SERVICE if eligible else Outcome.NO_CANDIDATE
    return Resolution(outcome, service, port, tuple(target.candidate for target in eligible))


def _targets(
    cluster: Cluster,
    service: Service,
    port: ServicePort | None,
    like: IPAddress,
    mesh: tuple[IPNetwork, ...],
) -> Iterator[_Target]:
    """The service's endpoints in the address family of `like`, for that port; for any, if it has not that port."""
    for each in cluster.slices_of(service):
        number = each.port(port.name) if port is not None else 1
        if number is None:
            continue
        for backend in each.backends:
            if backend.address.version == like.version:
                pod, is_certain = _pod_of(cluster, backend, mesh)
                yield _Target(backend, Candidate(Endpoint(backend.address, number), pod), is_certain)


def _pod_of(cluster: Cluster, backend: Backend, mesh: tuple[IPNetwork, ...]) -> tuple[Pod | None, bool]:
    """The pod at a backend's address, if any, and whether that is certain: it is not when it should be another one.

    Who is there is told by the pods: a slice may be older or newer than what we know of them, or somebody's.
    """
    there = cluster.pod_at(backend.address)
    if backend.pod is None:
        return there, there is not None or not any(backend.address in cidr for cidr in mesh)
    meant = cluster.pods.get(backend.pod.key)
    if meant is None or meant.head.uid != backend.pod.uid:
        return None, False
    if meant.is_host_network:  # nobody is found by its node's address
        return meant, backend.address in meant.addresses
    return meant, there is meant


def _is_in_mesh(
    cluster: Cluster, service: Service, targets: tuple[_Target, ...], trust_domain: TrustDomain
) -> bool:
    """Whether a connection to the service may reach a workload; where nobody is certain its namespace decides."""
    for target in targets:
        pod = target.candidate.pod
        if target.is_certain and pod is not None and membership(cluster, pod, trust_domain).is_possible:
            return True
    is_certain = bool(targets) and all(target.is_certain for target in targets)
    return not is_certain and _is_namespace_in_mesh(cluster, service)


def _is_namespace_in_mesh(cluster: Cluster, service: Service) -> bool:
    namespace = cluster.namespace_of(service)
    return namespace is None or why_namespace_is_outside(namespace) is None


def _eligible(targets: Sequence[_Target], client: Client, *, is_local: bool) -> Sequence[_Target]:
    """Those of the targets that kube-proxy would choose from, but for those of which we are not certain."""
    near = [
        target
        for target in targets
        if target.is_certain and (not is_local or target.backend.node == client.node)
    ]
    ready = [target for target in near if target.backend.is_ready]
    if not ready:
        return [target for target in near if target.backend.is_serving and target.backend.is_terminating]
    return ready if is_local else _hinted(ready, client)


def _hinted(targets: Sequence[_Target], client: Client) -> Sequence[_Target]:
    """Those with a hint for our node, or else our zone, if each has such hints and there are any; else all."""
    return (
        _meant_for(client.node, targets, lambda backend: backend.hint_nodes)
        or _meant_for(client.zone, targets, lambda backend: backend.hint_zones)
        or targets
    )


def _meant_for(
    place: str | None, targets: Sequence[_Target], hints: Callable[[Backend], Sequence[str]]
) -> Sequence[_Target]:
    if not all(hints(target.backend) for target in targets):
        return ()
    return [target for target in targets if place in hints(target.backend)]
