"""What a workload may have: its name, its network namespace, its addresses. An address in a namespace is a claim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.errors import EnrolmentError
from interceptor.kernel import netlink
from interceptor.kernel import netns as kernel_netns

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.agent.members import Enrolled, Members
    from interceptor.agent.state import EnrolledState
    from interceptor.config import Config
    from interceptor.enrolment.registry import Registry
    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.proxy.snapshot import Snapshot
    from interceptor.workload import IPAddress, Workload, WorkloadKey


class Claims:
    """Decides by the workloads of this node and by the registry; changes nothing."""

    def __init__(self, config: Config, members: Members, registry: Snapshot[Registry]) -> None:
        self._config = config
        self._members = members
        self._registry = registry

    def require_new(
        self, key: WorkloadKey, netns: NetworkNamespace, *, previous: EnrolledState | None
    ) -> None:
        """EnrolmentError unless the namespace is one of its own, and neither it nor the name is in use."""
        with kernel_netns.current() as ours:
            if netns.is_same_as(ours):
                raise EnrolmentError(
                    f"{netns.description} is the host's own network namespace, which the agent itself runs in: "
                    "give the workload one of its own ('interceptor run' does)"
                )
        for enrolled in self._members.enrolled.values():
            if netns.is_same_as(enrolled.netns):
                raise EnrolmentError(
                    f"{netns.description} is enrolled already, as {enrolled.workload.key}: withdraw that first"
                )
        for cut_off in self._members.cut_off.values():
            state = cut_off.state
            if previous is None and (state.key == key or state.reference.inode == netns.inode):
                raise EnrolmentError(
                    f"workload {key} cannot be enrolled in {netns.description}: {state.key}, which could not be taken "
                    "over from the last agent, has its name or its namespace: withdraw that first"
                )

    def require_free(self, workload: Workload) -> None:
        """EnrolmentError when somebody has its name or one of its addresses, or will have them again."""
        self._registry.value.with_workload(workload)
        for address in workload.addresses:
            holder = self._members.holder_to_be(address, besides=workload.key)
            if holder is not None:
                raise EnrolmentError(
                    f"workload {workload.key} cannot be enrolled, its address {address} belongs to {holder}, which "
                    "could not be taken over from the last agent: withdraw that first"
                )

    def require_local(self, workload: Workload) -> None:
        """EnrolmentError when a workload of another node has one of its addresses: others are sent there."""
        for address in workload.addresses:
            if self._registry.value.is_remote(address):
                holder = self._registry.value.by_address(address)
                assert holder is not None
                raise EnrolmentError(
                    f"workload {workload.key} cannot be enrolled, its address {address} belongs to {holder.key} on "
                    f"node {holder.node}: give this one another address, or withdraw the other there"
                )

    def may_have(
        self, state: EnrolledState, address: IPAddress, *, claim: frozenset[IPAddress] | None = None
    ) -> bool:
        """Whether a workload may have an address that it was not enrolled with.

        Whoever may administer its namespace can add any: then what others send there
        would come to it.  Those of `interceptor run` keep what they were given, others
        may take free addresses of the mesh, and never the bridge's own.  A pod has what its
        cluster's API says (`claim`).
        """
        if claim is not None:
            return address.is_link_local or address in claim
        if address in state.addresses or address.is_link_local:
            return True
        within = any(address in cidr for cidr in self._config.mesh_cidrs)
        taken = self._members.holder_to_be(address, besides=state.key) or self._registry.value.is_remote(
            address
        )
        is_free_to = state.run is None and state.pod_uid is None
        return is_free_to and within and not taken and not self._is_of_bridge(address)

    def may_keep(self, previous: EnrolledState, address: IPAddress) -> bool:
        """Whether an address is a workload's own when it is taken over: one that it took meanwhile may be another's."""
        holder = self._registry.value.by_address(address)
        return self.may_have(previous, address) and (address.is_link_local or holder is None)

    def others_inside(self, enrolled: Enrolled, addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        """Addresses that a namespace has and that are not the workload's for others: it may talk to itself there.

        Not if they are another's: should they leave the namespace, that one would be
        reached without the proxy for a moment.
        """
        return tuple(
            found.address
            for found in netlink.addresses(enrolled.netns)
            if found.address not in addresses
            and self._registry.value.by_address(found.address) is None
            and not self._is_of_bridge(found.address)
        )

    def _is_of_bridge(self, address: IPAddress) -> bool:
        bridge = self._config.bridge
        return address in (bridge.ipv4.ip, bridge.ipv6.ip)


def own_addresses(netns: NetworkNamespace, is_own: Callable[[IPAddress], bool]) -> tuple[IPAddress, ...]:
    """The addresses of a namespace that are its workload's; EnrolmentError when others cannot reach it by any."""
    found = tuple(found.address for found in netlink.addresses(netns) if is_own(found.address))
    if all(address.is_link_local for address in found):
        raise EnrolmentError(
            f"{netns.description} has no address that others can reach: give a link in it one, then enrol it"
        )
    return found
