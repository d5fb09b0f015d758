"""The value types that every part shares: workloads, endpoints, directions. Pure: no I/O, no clock."""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, Self

from interceptor.errors import InvalidInput, quoted
from interceptor.identity.spiffe_id import SpiffeId, validate_dotted_name, validate_name
from interceptor.labels import NO_LABELS, Labels

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

MAX_PORT: Final = 65535
# ASCII digits on purpose: `\d` and `str.isdigit` also take those of other scripts. A leading zero means octal to some
# readers, so it is refused, as `ipaddress` does for IPv4.
_PORT = re.compile(r"[1-9][0-9]{0,4}")


class Direction(StrEnum):
    """The direction of a connection as the workload on our side sees it."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"


def normalised_address(address: IPAddress) -> IPAddress:
    """The address, or the IPv4 address inside it when it is IPv4-mapped (RFC 4291, 2.5.5.2).

    A dual-stack socket shows IPv4 peers as `::ffff:10.0.0.1`; registry and policy must see one spelling only.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_address(text: str) -> IPAddress:
    """Text to a normalised address, without brackets, port or zone; raises InvalidInput."""
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidInput(
            f"{quoted(text)} is not an IP address, expected one such as 10.0.0.1 or fd00::1"
        ) from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise InvalidInput(f"{quoted(text)} has a zone, give the address without the part from '%'")
    return normalised_address(address)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a TCP port; `Endpoint.parse(str(x)) == x`, and an IPv4-mapped address is held as IPv4."""

    address: IPAddress
    port: int

    def __post_init__(self) -> None:
        """Normalise the address; raises InvalidInput for a port outside 1 to 65535."""
        if not 0 < self.port <= MAX_PORT:
            raise InvalidInput(f"port {self.port} is not a port number, expected 1 to {MAX_PORT}")
        if isinstance(self.address, IPv6Address):
            object.__setattr__(self, "address", normalised_address(self.address))

    @classmethod
    def parse(cls, text: str) -> Self:
        """`10.0.0.1:80` or `[fd00::1]:80` to a value; raises InvalidInput, and nothing else, for other text."""
        host, _, port = text.rpartition(":")
        try:
            if host.startswith("[") and host.endswith("]"):
                address: IPAddress = IPv6Address(host[1:-1])
            else:
                address = IPv4Address(host)
        except AddressValueError:
            raise InvalidInput(
                f"{quoted(text)} is not an address and port, expected one such as 10.0.0.1:80 or [fd00::1]:80"
            ) from None
        if "%" in host:
            raise InvalidInput(f"{quoted(text)} has a zone, give the address without the part from '%'")
        if not _PORT.fullmatch(port):
            raise InvalidInput(
                f"{quoted(text)} has no port number after the last ':', expected 1 to {MAX_PORT}"
            )
        return cls(address, int(port))

    def __str__(self) -> str:
        if isinstance(self.address, IPv6Address):
            return f"[{self.address}]:{self.port}"
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class WorkloadKey:
    """What names a workload in the whole mesh; every instance is valid."""

    namespace: str
    name: str

    def __post_init__(self) -> None:
        """Raise InvalidInput unless they are a DNS-1123 label and a subdomain, as a pod's ("Object Names and IDs")."""
        validate_name("namespace", self.namespace)
        validate_dotted_name("workload name", self.name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Workload:
    """The running thing with one identity: a pod, or a network namespace or container on a VM.

    `addresses` are the addresses of its network namespace in the order it prefers them; `node` is where it runs;
    `labels` are what the selectors of policies look at.
    """

    key: WorkloadKey
    identity: SpiffeId
    addresses: tuple[IPAddress, ...]
    node: str
    labels: Labels = NO_LABELS

    def __post_init__(self) -> None:
        """Raise InvalidInput when key and identity name different namespaces: one would vouch for the other."""
        if self.key.namespace != self.identity.namespace:
            raise InvalidInput(
                f"workload {self.key} cannot have the identity {self.identity}, whose namespace is another"
            )

    @property
    def name(self) -> str:
        """The name within its namespace."""
        return self.key.name

    @property
    def namespace(self) -> str:
        """The namespace, the same in key and identity."""
        return self.key.namespace

    @property
    def service_account(self) -> str:
        """The service account whose identity it has."""
        return self.identity.service_account
