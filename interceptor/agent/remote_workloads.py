"""What of the authority's registry becomes known on this node: the workloads of other nodes, where the mesh is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.authority.reports import RegisteredWorkload
    from interceptor.identity.spiffe_id import TrustDomain
    from interceptor.workload import IPNetwork, Workload


def remote_workloads(
    registered: Iterable[RegisteredWorkload],
    *,
    node: str,
    trust_domain: TrustDomain,
    cidrs: tuple[IPNetwork, ...],
) -> tuple[tuple[Workload, ...], tuple[str, ...]]:
    """The workloads of all nodes but `node`, with those of their addresses that lie inside `cidrs`; and warnings.

    Another address would not be captured on this node: a connection there would leave in plaintext, so nobody is told
    that it belongs to a workload.  Link-local addresses are left out without a word, each node has its own.
    """
    known: list[Workload] = []
    warnings: list[str] = []
    for entry in registered:
        if entry.node == node:
            continue
        workload = entry.workload(trust_domain)
        global_addresses = tuple(address for address in workload.addresses if not address.is_link_local)
        inside = tuple(a for a in global_addresses if any(a in cidr for cidr in cidrs))
        if inside != global_addresses:
            outside = ", ".join(str(address) for address in global_addresses if address not in inside)
            warnings.append(
                f"{workload.key} on node {workload.node} has addresses outside mesh.cidrs, which are ignored: {outside}"
            )
        if inside:
            known.append(replace(workload, addresses=inside))
    return tuple(known), tuple(warnings)
