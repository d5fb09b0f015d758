"""A service: the addresses and ports by which its pods are reached, and how one of them is chosen."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from interceptor.cluster.fields import Fields
from interceptor.cluster.head import Head
from interceptor.workload import MAX_PORT, IPAddress, parse_address

WHAT: Final = "service"
MAX_PORTS: Final = 1024
MAX_ADDRESSES: Final = 256
DEFAULT_AFFINITY_SECONDS: Final = 10_800  # API reference, SessionAffinityConfig
MAX_AFFINITY_SECONDS: Final = 86_400
_HEADLESS: Final = "None"
_TCP: Final = "TCP"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port; `name` leads to the ports of the endpoint slices, and is empty for an only one."""

    name: str
    port: int


@dataclass(frozen=True, slots=True)
class Service:
    """One service, as far as it is about TCP.

    `cluster_addresses` are empty for a headless one; `other_addresses` are external ones and those of load balancers.
    `affinity_seconds` is how long a client that comes back gets the same pod, None when each connection may go
    anywhere. `is_node_local` says that connections from inside the cluster stay on their node.
    """

    head: Head
    is_headless: bool
    cluster_addresses: tuple[IPAddress, ...]
    other_addresses: tuple[IPAddress, ...]
    ports: tuple[ServicePort, ...]
    affinity_seconds: int | None
    is_node_local: bool

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """All addresses."""
        return (*self.cluster_addresses, *self.other_addresses)

    def port(self, number: int) -> ServicePort | None:
        """The port of that number."""
        return next((port for port in self.ports if port.port == number), None)


def parse_service(head: Head, value: object) -> Service:
    """Raises InvalidInput."""
    fields = Fields(f"{WHAT} {head.key}", value)
    spec = fields.part("spec")
    texts = spec.texts("clusterIPs", MAX_ADDRESSES) or [spec.optional_text("clusterIP") or ""]
    ingress = fields.part("status").part("loadBalancer").parts("ingress", MAX_ADDRESSES)
    others = [
        *spec.texts("externalIPs", MAX_ADDRESSES),
        # A load balancer with the mode Proxy is to be reached itself (API reference, LoadBalancerIngress).
        *(each.optional_text("ip") or "" for each in ingress if each.optional_text("ipMode") != "Proxy"),
    ]
    return Service(
        head=head,
        is_headless=_HEADLESS in texts,
        cluster_addresses=_addresses(text for text in texts if text != _HEADLESS),
        other_addresses=_addresses(others),
        ports=tuple(_ports(spec)),
        affinity_seconds=_affinity(spec),
        is_node_local=spec.optional_text("internalTrafficPolicy") == "Local",
    )


def _addresses(texts: Iterable[str]) -> tuple[IPAddress, ...]:
    return tuple(dict.fromkeys(parse_address(text) for text in texts if text))


def _ports(spec: Fields) -> Iterator[ServicePort]:
    for port in spec.parts("ports", MAX_PORTS):
        number = port.number("port", 1, MAX_PORT)
        if number is not None and (port.optional_text("protocol") or _TCP) == _TCP:
            yield ServicePort(port.optional_text("name") or "", number)


def _affinity(spec: Fields) -> int | None:
    if spec.optional_text("sessionAffinity") != "ClientIP":
        return None
    config = spec.part("sessionAffinityConfig").part("clientIP")
    return config.number("timeoutSeconds", 1, MAX_AFFINITY_SECONDS) or DEFAULT_AFFINITY_SECONDS
