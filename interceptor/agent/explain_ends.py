"""The two ends of a connection that somebody asks about: from what a person types to workloads and addresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.errors import EnrolmentError, InvalidInput, UsageError, quoted
from interceptor.workload import MAX_PORT, Endpoint, Workload, parse_address

if TYPE_CHECKING:
    from interceptor.agent.node import Node
    from interceptor.proxy.route import Route
    from interceptor.workload import IPAddress


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the connection would go, and who is there."""

    endpoint: Endpoint
    workload: Workload | None
    evidence: str


def split_destination(text: str) -> tuple[str, int]:
    """`NAME:PORT`, `ADDRESS:PORT` or `[IPV6]:PORT` to host (without brackets) and port; UsageError for other text."""
    host, separator, port = text.rpartition(":")
    is_number = port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= MAX_PORT
    if not (separator and host and is_number):
        raise UsageError(
            f"{quoted(text)} is not a destination, expected NAME:PORT, ADDRESS:PORT or [IPV6]:PORT such as web:80"
        )
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise UsageError(f"{quoted(text)} is ambiguous, put an IPv6 address in brackets: [fd00::1]:80")
    return host.removeprefix("[").removesuffix("]"), int(port)


def find_source(node: Node, text: str) -> Workload | IPAddress:
    """A workload by name or address, or the address of somebody who is none; EnrolmentError for an unknown name."""
    try:
        return node.registry.value.find(text)
    except EnrolmentError:
        for cut_off in node.enroller.cut_off:
            if text in (cut_off.state.key.name, str(cut_off.state.key)):
                raise EnrolmentError(
                    f"{cut_off.state.key} is cut off, all its connections are refused: {cut_off.error}"
                ) from None
        try:
            return parse_address(text)
        except InvalidInput:
            pass
        raise


def find_destination(node: Node, source: Workload | IPAddress, host: str, port: int) -> Destination:
    """Whom `source` reaches under a name or an address; EnrolmentError for a name that means nobody."""
    registry = node.registry.value
    try:
        address = parse_address(host)
    except InvalidInput:
        workload = _find_by_name(node, source, host)
        reachable = [each for each in workload.addresses if not each.is_link_local]
        address = preferred_address(source, reachable)
        others = ", ".join(str(each) for each in reachable if each != address)
        evidence = f"{host} is {workload.key}, {workload.identity}, at {address}" + (
            f" (and {others})" if others else ""
        )
        return Destination(Endpoint(address, port), workload, evidence)
    found = registry.by_address(address)
    evidence = f"{address} is {found.key}, {found.identity}" if found else f"no workload has {address}"
    return Destination(Endpoint(address, port), found, evidence)


def routed(node: Node, destination: Destination, route: Route) -> Destination:
    """The destination that a service's address leads to; itself, when it is none's."""
    if route.endpoint == destination.endpoint:
        return destination
    workload = node.registry.value.by_address(route.endpoint.address)
    return Destination(route.endpoint, workload, destination.evidence)


def _find_by_name(node: Node, source: Workload | IPAddress, name: str) -> Workload:
    """The names that 'interceptor run' makes resolvable: NAME in the own namespace, and NAME.NAMESPACE."""
    own = source.namespace if isinstance(source, Workload) else None
    by_name = {f"{each.name}.{each.namespace}": each for each in node.registry.value.workloads}
    found = by_name.get(f"{name}.{own}") or by_name.get(name)
    return found or node.registry.value.find(name)


def preferred_address(source: Workload | IPAddress, addresses: list[IPAddress]) -> IPAddress:
    """The first one of a family that the source has."""
    own = source.addresses if isinstance(source, Workload) else (source,)
    versions = {each.version for each in own if not each.is_link_local}
    return next((each for each in addresses if each.version in versions), addresses[0])
