"""Text to one value each, with its bounds; every function raises InvalidInput and says what would be right."""

import re
from datetime import timedelta
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from pathlib import Path
from typing import Final

from interceptor.authority import address
from interceptor.authority.address import AuthorityAddress
from interceptor.errors import InvalidInput, quoted
from interceptor.policy.policy_set import RESERVED_PORTS, AddressCheck
from interceptor.workload import Endpoint, IPNetwork

MAX_NAME_LENGTH: Final = 253  # of a DNS name, and so of a Kubernetes node
MAX_INTERFACE_NAME_LENGTH: Final = 15  # IFNAMSIZ without the NUL
MAX_PATH_BYTES: Final = 4095  # PATH_MAX without the NUL
# A Unix socket's address takes 107 bytes; this leaves room for the names of the sockets inside the directory.
MAX_RUN_DIR_BYTES: Final = 80
MIN_IPV4_HOSTS_PREFIX, MIN_IPV6_HOSTS_PREFIX = 30, 126  # the bridge and at least one workload

_NODE_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]*")
# Nine digits, even of hours, are within what a timedelta can hold.
_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})(ms|s|m|h)")
_COUNT = re.compile(r"0|[1-9][0-9]{0,17}")  # decimal only: to YAML, 010 is eight and 1:30 is ninety
_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
}
# Connections to these never leave the host or the link. Capturing loopback would capture the way to our own listeners.
_NEVER_IN_MESH: Final = tuple(
    (ip_network(text), kind)
    for text, kind in (
        ("127.0.0.0/8", "loopback"),
        ("::1/128", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("fe80::/10", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("ff00::/8", "multicast"),
        ("::ffff:0:0/96", "IPv4-mapped"),
    )
)


def parse_node(text: str) -> str:
    """The name of this host: letters, digits, '-', '_' and '.', at most 253 characters."""
    if len(text) > MAX_NAME_LENGTH or not _NODE_NAME.fullmatch(text):
        raise InvalidInput(
            f"{quoted(text)} is not a node name, use letters, digits, '-', '_' and '.', such as node-1"
        )
    return text


def parse_interface_name(text: str) -> str:
    """The name of a network interface: at most 15 characters."""
    if len(text) > MAX_INTERFACE_NAME_LENGTH or not _INTERFACE_NAME.fullmatch(text):
        raise InvalidInput(
            f"{quoted(text)} is not an interface name, use at most {MAX_INTERFACE_NAME_LENGTH} letters, digits, "
            "'-', '_' and '.', such as interceptor0"
        )
    return text


def parse_mesh_cidr(text: str) -> IPNetwork:
    """A network whose addresses belong to the mesh; loopback, link-local, multicast and mapped ranges may not."""
    if "/" not in text or "%" in text:
        raise InvalidInput(f"{quoted(text)} is not a CIDR, expected one such as 10.215.0.0/16")
    try:
        network = ip_network(text)
    except ValueError:
        raise InvalidInput(_why_no_network(text)) from None
    for forbidden, kind in _NEVER_IN_MESH:
        if network.version == forbidden.version and network.overlaps(forbidden):
            raise InvalidInput(
                f"{network} contains {kind} addresses, which cannot be captured, give a smaller range"
            )
    return network


def parse_bridge_ipv4(text: str) -> IPv4Interface:
    """The bridge's IPv4 address with the prefix length of its network."""
    try:
        interface = IPv4Interface(text)
    except ValueError:
        raise InvalidInput(_no_interface_address(text, "10.215.0.1/16")) from None
    network = interface.network
    if network.prefixlen > MIN_IPV4_HOSTS_PREFIX:
        raise InvalidInput(
            f"{interface} leaves no address for workloads, use /{MIN_IPV4_HOSTS_PREFIX} or shorter"
        )
    if interface.ip in (network.network_address, network.broadcast_address):
        raise InvalidInput(
            f"{interface} is the network's own address or its broadcast address, use {network[1]}"
        )
    return interface


def parse_bridge_ipv6(text: str) -> IPv6Interface:
    """The bridge's IPv6 address with the prefix length of its network."""
    try:
        interface = IPv6Interface(text)
    except ValueError:
        raise InvalidInput(_no_interface_address(text, "fd15:8::1/64")) from None
    network = interface.network
    if "%" in text:  # `interface.ip` has lost it already
        raise InvalidInput(f"{quoted(text)} has a zone, give the address without the part from '%'")
    if network.prefixlen > MIN_IPV6_HOSTS_PREFIX:
        raise InvalidInput(
            f"{interface} leaves no address for workloads, use /{MIN_IPV6_HOSTS_PREFIX} or shorter"
        )
    if interface.ip == network.network_address:
        raise InvalidInput(f"{interface} is the network's own address, use {network[1]}")
    return interface


def parse_pod_conditions(text: str) -> bool:
    """Whether conditions are written; raises InvalidInput."""
    if text not in ("write", "omit"):
        raise InvalidInput(f"{quoted(text)} is neither write nor omit")
    return text == "write"


def parse_path(text: str) -> Path:
    """An absolute path without '..' and control characters."""
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts or not text.isprintable():
        raise InvalidInput(
            f"{quoted(text)} is not an absolute path without '..', expected one such as /var/lib/interceptor"
        )
    if len(text.encode()) > MAX_PATH_BYTES:
        raise InvalidInput(f"{quoted(text)} is longer than {MAX_PATH_BYTES} bytes")
    return path


def parse_run_dir(text: str) -> Path:
    """A path that is short enough for Unix sockets inside it."""
    path = parse_path(text)
    if len(text.encode()) > MAX_RUN_DIR_BYTES:
        raise InvalidInput(
            f"{quoted(text)} is longer than {MAX_RUN_DIR_BYTES} bytes, too long for the sockets inside it"
        )
    return path


def parse_duration(text: str, shortest: timedelta, longest: timedelta) -> timedelta:
    """A whole number with a unit (ms, s, m, h) to a duration within the bounds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidInput(f"{quoted(text)} is not a duration, expected one such as 10s, 5m or 24h")
    duration = int(match[1]) * _UNITS[match[2]]
    if not shortest <= duration <= longest:
        raise InvalidInput(f"{text} is out of range, expected {_seconds(shortest)} to {_seconds(longest)}")
    return duration


def parse_count(text: str, smallest: int, largest: int) -> int:
    """A whole number in decimal digits, within the bounds."""
    if not _COUNT.fullmatch(text):
        raise InvalidInput(f"{quoted(text)} is not a whole number, write digits only")
    if not smallest <= int(text) <= largest:
        raise InvalidInput(f"{text} is out of range, expected {smallest} to {largest}")
    return int(text)


def parse_listen_address(text: str) -> Endpoint:
    """An address and port to listen on, other than the proxy's own ports."""
    endpoint = Endpoint.parse(text)
    if endpoint.port in RESERVED_PORTS:
        raise InvalidInput(f"port {endpoint.port} is the proxy's own, choose another")
    return endpoint


def parse_authority_address(text: str) -> AuthorityAddress:
    """Where the authority listens: an address or a host's name, and a port other than the proxy's own ones."""
    found = address.parse_authority_address(text)
    if found.port in RESERVED_PORTS:
        raise InvalidInput(f"port {found.port} is the proxy's own, choose another")
    return found


def parse_address_check(text: str) -> AddressCheck:
    """What to do with an identity from another workload's address."""
    try:
        return AddressCheck(text)
    except ValueError:
        raise InvalidInput(f"{quoted(text)} is neither REFUSE nor FLAG") from None


def _why_no_network(text: str) -> str:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return f"{quoted(text)} is not a CIDR, expected one such as 10.215.0.0/16"
    return f"{quoted(text)} has bits set beyond its prefix, did you mean {network}?"


def _no_interface_address(text: str, example: str) -> str:
    return f"{quoted(text)} is not an address with a prefix length, expected one such as {example}"


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():g}s"
