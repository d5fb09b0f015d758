"""Whether a program in a network namespace accepts connections on a port: read from /proc, nothing is connected."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.workload import normalised_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.workload import Endpoint, IPAddress

_TABLES = ("/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6")  # of the calling thread's namespace
_LISTEN = "0A"
_ANY_IPV4, _ANY_IPV6 = ip_address("0.0.0.0"), ip_address("::")  # noqa: S104 - compared with, not bound to


def is_listened_on(netns: NetworkNamespace, endpoint: Endpoint) -> bool:
    """Whether some socket listens where a connection to `endpoint` would arrive.

    An IPv6 socket bound to `::` counts for IPv4 as well: whether it is IPV6_V6ONLY cannot be read.
    Raises KernelError when the namespace cannot be entered.
    """
    wanted: set[IPAddress] = {endpoint.address, _ANY_IPV6}
    if endpoint.address.version == 4:
        wanted.add(_ANY_IPV4)
    with netns.entered():
        return any(
            port == endpoint.port and address in wanted
            for path in _TABLES
            for address, port in _listeners(path)
        )


def _listeners(path: str) -> Iterator[tuple[IPAddress, int]]:
    try:
        with Path(path).open(encoding="ascii") as table:
            yield from parse_listeners(table)
    except FileNotFoundError:
        return  # a kernel without IPv6


def parse_listeners(lines: Iterable[str]) -> Iterator[tuple[IPAddress, int]]:
    """Address and port of each listening socket of a /proc/net/tcp or tcp6 (proc(5)); the kernel lists them first."""
    for line in lines:
        fields = line.split()
        if fields[0] == "sl":
            continue
        if fields[3] != _LISTEN:
            return
        address, _, port = fields[1].rpartition(":")
        yield _address(address), int(port, 16)


def _address(text: str) -> IPAddress:
    """Hexadecimal words of 32 bits, each in the order of the machine's bytes."""
    words = [int(text[start : start + 8], 16).to_bytes(4, "little") for start in range(0, len(text), 8)]
    packed = b"".join(words)
    return IPv4Address(packed) if len(packed) == 4 else normalised_address(IPv6Address(packed))
