"""Where a captured connection really leads: a service's address means one of several workloads, of which one is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from interceptor.workload import Endpoint, IPAddress, IPNetwork


class Way(StrEnum):
    """The closed set of answers."""

    MESH = "mesh"  # to whoever has the address by the registry
    OUTSIDE = "outside"  # it is certain that nobody of the mesh is there
    NOBODY_NOW = "nobody_now"  # a service of the mesh without anybody to serve it: wait, then refuse
    NO_SUCH_PORT = "no_such_port"  # a service of the mesh that has not this port


@dataclass(frozen=True, slots=True)
class Route:
    """Where to; `service` is the name of the service that was meant, empty when it was none."""

    way: Way
    endpoint: Endpoint
    service: str = ""


class Locate(Protocol):
    """Says where a connection leads now."""

    def __call__(self, destination: Endpoint, client: IPAddress) -> Route: ...


def by_ranges(
    mesh: Iterable[IPNetwork], may_be_ours: Callable[[IPAddress], bool] = lambda _: False
) -> Locate:
    """Routes where addresses mean workloads and nothing else: who is outside of the mesh's ranges is not waited for.

    `may_be_ours` says of which addresses out there that is not certain: a workload was just there, or will be again.
    """
    networks = tuple(mesh)

    def locate(destination: Endpoint, client: IPAddress) -> Route:
        del client
        address = destination.address
        is_inside = any(address in network for network in networks) or may_be_ours(address)
        return Route(Way.MESH if is_inside else Way.OUTSIDE, destination)

    return locate


def as_it_is(destination: Endpoint, client: IPAddress) -> Route:
    """The route where every address may be a workload's."""
    del client
    return Route(Way.MESH, destination)
