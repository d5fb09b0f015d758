"""What is known of the cluster at one moment, and how each event makes the next one."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Self

from interceptor.cluster import endpoint_slice, namespace, pod, policy_object, service
from interceptor.cluster.endpoint_slice import EndpointSlice
from interceptor.cluster.head import Head, ObjectKey, parse_head
from interceptor.cluster.namespace import Namespace
from interceptor.cluster.pod import Pod
from interceptor.cluster.policy_object import PolicyObject
from interceptor.cluster.service import Service
from interceptor.cluster.table import Table, Unreadable
from interceptor.errors import InvalidInput
from interceptor.workload import IPAddress, normalised_address

AnyObject = Namespace | Pod | Service | EndpointSlice | PolicyObject


class Kind(StrEnum):
    """The kinds that we read; the value is the name of its table."""

    NAMESPACE = "namespaces"
    POD = "pods"
    SERVICE = "services"
    ENDPOINT_SLICE = "endpoint_slices"
    PEER_AUTHENTICATION = "peer_authentications"
    AUTHORIZATION_POLICY = "authorization_policies"


_PARSERS: Final[Mapping[Kind, tuple[str, Callable[[Head, object], AnyObject]]]] = {
    Kind.NAMESPACE: (namespace.WHAT, namespace.parse_namespace),
    Kind.POD: (pod.WHAT, pod.parse_pod),
    Kind.SERVICE: (service.WHAT, service.parse_service),
    Kind.ENDPOINT_SLICE: (endpoint_slice.WHAT, endpoint_slice.parse_endpoint_slice),
    Kind.PEER_AUTHENTICATION: (policy_object.PEER_AUTHENTICATION, policy_object.parse_peer_authentication),
    Kind.AUTHORIZATION_POLICY: (policy_object.AUTHORIZATION_POLICY, policy_object.parse_authorization_policy),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects of a kind, as of a version of the list."""

    kind: Kind
    version: int
    objects: tuple[AnyObject | Unreadable, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """An object was added or changed."""

    kind: Kind
    object: AnyObject | Unreadable


@dataclass(frozen=True, slots=True)
class Removed:
    """An object is no longer there; the version is that of its removal."""

    kind: Kind
    head: Head


ClusterEvent = Listed | Changed | Removed


def parse_object(kind: Kind, value: object) -> AnyObject | Unreadable:
    """JSON of the API to an object, or to the reason why it is none of use.

    Raises InvalidInput when not even its name, UID and version can be read: then nothing from there can be relied on.
    """
    what, parse = _PARSERS[kind]
    head = parse_head(what, value)
    try:
        return parse(head, value)
    except InvalidInput as error:
        return Unreadable(head, str(error))


def _nothing(_object: object) -> Iterable[Hashable]:
    return ()


def _places_of_pod(each: Pod) -> Iterable[Hashable]:
    return each.own_addresses if each.node is None else (*each.own_addresses, each.node)


def _addresses_of_service(each: Service) -> Iterable[Hashable]:
    return each.addresses


def _service_of_slice(each: EndpointSlice) -> Iterable[Hashable]:
    return () if each.service is None else (each.service,)


@dataclass(frozen=True, slots=True)
class Cluster:
    """An immutable snapshot of all kinds; start with `Cluster()`."""

    namespaces: Table[Namespace] = field(default_factory=lambda: Table(_nothing))
    pods: Table[Pod] = field(default_factory=lambda: Table(_places_of_pod))
    services: Table[Service] = field(default_factory=lambda: Table(_addresses_of_service))
    endpoint_slices: Table[EndpointSlice] = field(default_factory=lambda: Table(_service_of_slice))
    peer_authentications: Table[PolicyObject] = field(default_factory=lambda: Table(_nothing))
    authorization_policies: Table[PolicyObject] = field(default_factory=lambda: Table(_nothing))

    def apply(self, event: ClusterEvent) -> Self:
        """The next snapshot; the same one when the event is no news."""
        old = self._table(event.kind)
        new = _applied(old, event)
        return self if new is old else replace(self, **{event.kind.value: new})

    def namespace_of(self, each: Pod | Service) -> Namespace | None:
        """The namespace in which it is, None while that is not known."""
        return self.namespaces.get(ObjectKey("", each.head.key.namespace))

    def pod_at(self, address: IPAddress) -> Pod | None:
        """The one pod that has this address; None when none has it, or when it cannot be told which of several.

        A pod that is being deleted gives way to one that is not: its address may have been given away already.
        """
        found = self.pods.find(normalised_address(address))
        staying = [each for each in found if not each.is_deleting]
        candidates = staying or found
        return candidates[0] if len(candidates) == 1 else None

    def pods_on(self, node: str) -> tuple[Pod, ...]:
        """The pods that are scheduled on a node, by name."""
        return self.pods.find(node)

    def service_at(self, address: IPAddress, port: int | None = None) -> Service | None:
        """The service of this address; with a port, of an external address only one that has it.

        An address that the cluster gave to one service is that one's with all ports, whoever claims it as an external
        one (CVE-2020-8554). An external one may be a node's, or shared: of several with the port it is the first by name.
        """
        address = normalised_address(address)
        found = self.services.find(address)
        given = [each for each in found if address in each.cluster_addresses]
        external = [each for each in found if port is None or each.port(port) is not None]
        return next(iter((*given, *external)), None)

    def slices_of(self, each: Service) -> tuple[EndpointSlice, ...]:
        """The endpoint slices of a service."""
        return self.endpoint_slices.find(each.head.key)

    def policy_objects(self) -> list[PolicyObject]:
        """Istio's policies, by namespace, name and kind."""
        found = (*self.peer_authentications.objects.values(), *self.authorization_policies.objects.values())
        return sorted(found, key=lambda each: (each.head.key, each.sort))

    def problems(self, kinds: Iterable[Kind] = tuple(Kind)) -> list[str]:
        """What is wrong with objects of these kinds that cannot be read, one line each, sorted."""
        return sorted(each.problem for kind in kinds for each in self._table(kind).unreadable.values())

    def _table(self, kind: Kind) -> Table[Any]:
        table: Table[Any] = getattr(self, kind.value)
        return table


def _applied(table: Table[Any], event: ClusterEvent) -> Table[Any]:
    match event:
        case Listed():
            unreadable = [each for each in event.objects if isinstance(each, Unreadable)]
            readable = [each for each in event.objects if not isinstance(each, Unreadable)]
            return table.listed(event.version, readable, unreadable)
        case Changed(object=Unreadable() as problem):
            return table.with_unreadable(problem)
        case Changed():
            return table.with_object(event.object)
        case _:
            return table.without(event.head)
