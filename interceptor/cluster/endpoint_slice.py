"""A part of a service's endpoints: the addresses of pods, and whether they can be used."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from interceptor.cluster.fields import Fields
from interceptor.cluster.head import MAX_UID, Head, ObjectKey
from interceptor.workload import MAX_PORT, IPAddress, parse_address

WHAT: Final = "endpoint slice"
SERVICE_LABEL: Final = "kubernetes.io/service-name"
MAX_ENDPOINTS: Final = 1000  # API reference, EndpointSlice: so many at most
MAX_PORTS: Final = 1024
MAX_ADDRESSES: Final = 100
MAX_HINTS: Final = 8  # of nodes, and of zones
_FAMILIES: Final = ("IPv4", "IPv6")
_TCP: Final = "TCP"


@dataclass(frozen=True, slots=True)
class PodReference:
    """Which pod an endpoint is said to be; of the slice's own namespace, as Kubernetes makes them."""

    key: ObjectKey
    uid: str


@dataclass(frozen=True, slots=True)
class Backend:
    """One endpoint of a service.

    `pod` is None for what is said to be no pod; who is really at the address, only the pods themselves tell.
    `hint_zones` and `hint_nodes` are where it should be used; `hostname` is its name below the service's.
    """

    address: IPAddress
    pod: PodReference | None
    node: str | None
    hint_zones: tuple[str, ...]
    hint_nodes: tuple[str, ...]
    hostname: str | None
    is_ready: bool
    is_serving: bool
    is_terminating: bool


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """One slice; `ports` leads from a service port's name to the pods' port number (TCP only)."""

    head: Head
    service: ObjectKey | None
    ports: tuple[tuple[str, int], ...]
    backends: tuple[Backend, ...]

    def port(self, name: str) -> int | None:
        """The number of the port of that name."""
        return next((number for each, number in self.ports if each == name), None)


def parse_endpoint_slice(head: Head, value: object) -> EndpointSlice:
    """Raises InvalidInput.  A slice of host names (`addressType: FQDN`) has no backends for us."""
    fields = Fields(f"{WHAT} {head.key}", value)
    service = fields.part("metadata").mapping("labels").get(SERVICE_LABEL)
    has_addresses = fields.text("addressType") in _FAMILIES
    return EndpointSlice(
        head=head,
        service=ObjectKey(head.key.namespace, service) if service else None,
        ports=tuple(_port(port) for port in fields.parts("ports", MAX_PORTS) if _is_tcp(port)),
        backends=tuple(_backends(head, fields)) if has_addresses else (),
    )


def _is_tcp(port: Fields) -> bool:
    has_number = port.number("port", 1, MAX_PORT) is not None  # absent would mean "all ports"
    return has_number and (port.optional_text("protocol") or _TCP) == _TCP


def _port(port: Fields) -> tuple[str, int]:
    number = port.number("port", 1, MAX_PORT)
    assert number is not None, "only those with a number are kept"
    return sys.intern(port.optional_text("name") or ""), number


def _backends(head: Head, fields: Fields) -> Iterator[Backend]:
    """The endpoints; of several addresses of one only the first is used, as by kube-proxy.

    Absent conditions are the API reference's: ready counts as true, serving is the same as ready.
    """
    for endpoint in fields.parts("endpoints", MAX_ENDPOINTS):
        conditions = endpoint.part("conditions")
        is_ready = conditions.flag("ready", default=True)
        hints = endpoint.part("hints")
        node = endpoint.optional_text("nodeName")
        yield Backend(
            address=parse_address((endpoint.texts("addresses", MAX_ADDRESSES) or [""])[0]),
            pod=_pod(head, endpoint.part("targetRef")),
            node=sys.intern(node) if node else None,
            hint_zones=_hints(hints, "forZones"),
            hint_nodes=_hints(hints, "forNodes"),
            hostname=endpoint.optional_text("hostname"),
            is_ready=is_ready,
            is_serving=conditions.flag("serving", default=is_ready),
            is_terminating=conditions.flag("terminating", default=False),
        )


def _hints(hints: Fields, name: str) -> tuple[str, ...]:
    return tuple(sys.intern(each.text("name")) for each in hints.parts(name, MAX_HINTS))


def _pod(head: Head, target: Fields) -> PodReference | None:
    if target.optional_text("kind") != "Pod":
        return None
    return PodReference(ObjectKey(head.key.namespace, target.text("name")), target.text("uid", MAX_UID))
