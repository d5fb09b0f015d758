"""Patterns, and the facts about a connection that they are held against; no regular expressions, nothing to escape.

A pattern is a projection and a key: `abc*` takes the first three characters of a value and compares them with `abc`,
10.0.0.0/8 the first eight bits of an address. A pattern matches when the projection of the value equals the key; the
index of rules (`rule_index`) looks the same projection up in a dictionary, so both always agree.
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from functools import lru_cache
from ipaddress import IPv6Network, ip_network
from typing import Final, Self

from interceptor.errors import InvalidInput, quoted
from interceptor.identity.spiffe_id import SCHEME, SERVICE_ACCOUNT, SpiffeId, validate_name
from interceptor.workload import MAX_PORT, Endpoint, IPAddress, normalised_address

MAX_PATTERN_LENGTH: Final = 512
_BITS: Final = {4: 32, 6: 128}
_MAPPED: Final = IPv6Network("::ffff:0:0/96")  # connections from there are seen as IPv4

Value = str | int | None  # None: the connection has no such attribute, and nothing matches it


class Attribute(IntEnum):
    """What a connection is judged by; the number is its place in `Facts.values`."""

    PRINCIPAL = 0
    NAMESPACE = 1
    SERVICE_ACCOUNT = 2
    SOURCE_IP = 3
    DESTINATION_IP = 4
    DESTINATION_PORT = 5
    DESTINATION_PRINCIPAL = 6


ATTRIBUTE_NAMES: Final = (
    "source.principal",
    "source.namespace",
    "source.serviceAccount",
    "source.ip",
    "destination.ip",
    "destination.port",
    "destination.principal",
)


class Projection(StrEnum):
    """Which part of a value a pattern looks at."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    PRESENCE = "presence"
    IPV4 = "ipv4"
    IPV6 = "ipv6"


@dataclass(frozen=True, slots=True)
class Facts:
    """One connection as the patterns see it. Addresses are numbers with their version in front, to be hashed fast."""

    source: IPAddress
    destination: Endpoint
    identity: SpiffeId | None
    destination_identity: SpiffeId | None = None
    values: tuple[Value, Value, Value, int, int, int, Value] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        identity = self.identity
        principal = namespace = account = None
        if identity is not None:
            namespace = identity.namespace
            account = f"{namespace}/{identity.service_account}"
            principal = identity.principal
        addresses = _number(normalised_address(self.source)), _number(self.destination.address)
        target = None if self.destination_identity is None else self.destination_identity.principal
        values = (principal, namespace, account, *addresses, self.destination.port, target)
        object.__setattr__(self, "values", values)

    def shown(self, attribute: Attribute) -> str:
        """An attribute's value for a person."""
        if attribute is Attribute.SOURCE_IP:
            return str(self.source)
        if attribute is Attribute.DESTINATION_IP:
            return str(self.destination.address)
        value = self.values[attribute]
        return "not known" if value is None else str(value)


def _number(address: IPAddress) -> int:
    """An address as one number that no address of the other version has."""
    return int(address) | (address.version << 128)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One entry of a list in a policy; `text` is how it was written."""

    projection: Projection
    length: int
    key: str | int
    text: str = field(compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """`abc`, `abc*`, `*abc` or `*`, as in Istio's AuthorizationPolicy reference ("Rule"); raises InvalidInput.

        "Exact match: abc will match on value abc. Prefix match: abc* will match on value abc and abcd. Suffix match:
        *abc will match on value abc and xabc. Presence match: * will match when value is not empty." A '*' anywhere
        else is refused: it would match nothing, and its author meant something.
        """
        if not text or len(text) > MAX_PATTERN_LENGTH or not text.isprintable() or not text.isascii():
            raise InvalidInput(
                f"{quoted(text)} is not a pattern, use 1 to {MAX_PATTERN_LENGTH} printable ASCII characters"
            )
        inner = text.removeprefix("*") if text.startswith("*") else text.removesuffix("*")
        if "*" in inner:
            raise InvalidInput(
                f"{quoted(text)} has a '*' inside, it may be the first or the last character only"
            )
        if text == "*":
            return cls(Projection.PRESENCE, 0, "", text)
        if inner == text:
            return cls(Projection.EXACT, 0, text, text)
        return cls(Projection.SUFFIX if text.startswith("*") else Projection.PREFIX, len(inner), inner, text)

    @classmethod
    def principal(cls, text: str) -> Self:
        """A pattern for an identity, written with or without `spiffe://`; it is compared without."""
        pattern = cls.parse(text.removeprefix(SCHEME))
        if "//" in pattern.text:
            raise InvalidInput(f"{quoted(text)} matches nobody, leave out {SCHEME} and what is before it")
        return cls(pattern.projection, pattern.length, pattern.key, text)

    @classmethod
    def service_account(cls, text: str, namespace: str) -> Self:
        """`<namespace>/<service account>`, or `<service account>` in the policy's own namespace; no wildcards."""
        before, slash, account = text.rpartition("/")
        namespace = validate_name("namespace", before) if slash else namespace
        validate_name(SERVICE_ACCOUNT, account)
        return cls(Projection.EXACT, 0, f"{namespace}/{account}", text)

    @classmethod
    @lru_cache(maxsize=4096)  # the same few are in many policies
    def block(cls, text: str) -> Self:
        """`10.0.0.1` or `10.0.0.0/8`, or the same for IPv6; bits beyond the prefix are refused."""
        try:
            network = ip_network(text)
        except ValueError:
            network = None
        if network is None or "%" in text or "." in text.partition("/")[2]:  # no masks, as in Istio
            raise InvalidInput(
                f"{quoted(text)} is not an address or CIDR without bits beyond its prefix, expected one such as "
                "10.0.0.1 or 10.0.0.0/8"
            )
        if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
            raise InvalidInput(f"{quoted(text)} contains IPv4-mapped addresses, write them as IPv4")
        version = network.version
        number = _number(network.network_address) >> (_BITS[version] - network.prefixlen)
        return cls(Projection.IPV4 if version == 4 else Projection.IPV6, network.prefixlen, number, text)

    @classmethod
    @lru_cache(maxsize=4096)
    def port(cls, text: str) -> Self:
        """A port number in decimal digits."""
        if not (text.isascii() and text.isdecimal() and text[0] != "0" and int(text[:6]) <= MAX_PORT):
            raise InvalidInput(f"{quoted(text)} is not a port number, expected 1 to {MAX_PORT}")
        return cls(Projection.EXACT, 0, int(text), text)

    def written_as(self, text: str) -> Self:
        """The same pattern, for which somebody wrote another text."""
        return replace(self, text=text)

    def matches(self, value: Value) -> bool:
        """Whether a value is one that this pattern means; no value (None) never is."""
        return value is not None and project(self.projection, self.length, value) == self.key


def project(projection: Projection, length: int, value: str | int) -> str | int:
    """The part of a value that patterns of this kind and length look at."""
    if projection is Projection.EXACT:
        return value
    if isinstance(value, str):
        if projection is Projection.PREFIX:
            return value[:length]
        return value[-length:] if projection is Projection.SUFFIX else ""
    # The version stays in front, above the address's bits: the other version's numbers never equal.
    return value >> (32 - length if projection is Projection.IPV4 else 128 - length)
