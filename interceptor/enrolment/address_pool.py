"""Which addresses the next workload on the node's bridge gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.errors import EnrolmentError

if TYPE_CHECKING:
    from collections.abc import Collection
    from ipaddress import IPv4Interface, IPv6Interface

    from interceptor.workload import IPAddress

MAX_HOSTS = 65_000  # more workloads than the capture programs take on one node


def next_addresses(
    bridge_ipv4: IPv4Interface, bridge_ipv6: IPv6Interface, taken: Collection[IPAddress]
) -> tuple[IPv4Interface, IPv6Interface]:
    """The lowest host number free in both of the bridge's networks, as interfaces with their prefix lengths.

    Both families get the same host number, so that a person sees that they
    belong together.  EnrolmentError when the smaller network is full.
    """
    used = {*taken, bridge_ipv4.ip, bridge_ipv6.ip}
    last = min(bridge_ipv4.network.num_addresses - 2, bridge_ipv6.network.num_addresses - 1, MAX_HOSTS)
    for host in range(1, last + 1):
        ipv4, ipv6 = bridge_ipv4.network[host], bridge_ipv6.network[host]
        if ipv4 not in used and ipv6 not in used:
            return (
                type(bridge_ipv4)((ipv4, bridge_ipv4.network.prefixlen)),
                type(bridge_ipv6)((ipv6, bridge_ipv6.network.prefixlen)),
            )
    raise EnrolmentError(
        f"no address is left in {bridge_ipv4.network} and {bridge_ipv6.network}: "
        "withdraw a workload, or give the bridge a larger network"
    )
