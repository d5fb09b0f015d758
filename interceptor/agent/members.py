"""The workloads of this node as they are now: served, cut off, or on their way; and what is written down of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.agent.reference import end_processes
from interceptor.kernel import netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.labels import NO_LABELS, Labels

if TYPE_CHECKING:
    from collections.abc import Iterable

    import trio

    from interceptor.agent.reference import NamespaceReference
    from interceptor.agent.state import EnrolledState, RunDetails, StateFile
    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.proxy.workload_proxy import WorkloadProxy
    from interceptor.workload import IPAddress, IPNetwork, Workload, WorkloadKey


@dataclass(slots=True)
class Enrolled:
    """A workload in the mesh, with what it holds in the kernel and in the proxy."""

    state: EnrolledState
    netns: NetworkNamespace
    cookie: int
    proxy: WorkloadProxy
    scope: trio.CancelScope
    local: tuple[
        IPAddress, ...
    ]  # what it reaches without the proxy: its addresses, and others in its namespace
    claim: frozenset[IPAddress] | None = None  # of a pod: what its API says it has, there or not

    @property
    def workload(self) -> Workload:
        """As it is now."""
        return self.proxy.context.workload

    def become(self, workload: Workload) -> None:
        """Let what is decided from now on be about this; its name and identity stay."""
        self.proxy.context.subject.replace(workload)
        self.state = replace(self.state, addresses=workload.addresses, labels=workload.labels)


@dataclass(frozen=True, slots=True)
class CutOff:
    """A workload of the last agent that could not be taken over: captured, not served, and tried again."""

    state: EnrolledState
    error: str


@dataclass(frozen=True, slots=True)
class PodClaim:
    """A pod of a cluster: its API says which addresses are its own, and nobody else does."""

    uid: str
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wants to enrol; every part is validated when it is enrolled."""

    namespace: str
    name: str
    service_account: str
    reference: NamespaceReference
    run: RunDetails | None = None
    labels: Labels = NO_LABELS
    pod: PodClaim | None = None


class Members:
    """The set that the enroller owns and changes; others look.

    enrolled   what is served
    cut_off    what could not be taken over
    pending    written down, and not in either of the above yet: being enrolled, or waiting to be taken over
    """

    def __init__(self, state_file: StateFile, cidrs: Iterable[IPNetwork]) -> None:
        """`cidrs` are the mesh's."""
        self._state_file = state_file
        self._cidrs = tuple(cidrs)
        self.enrolled: dict[WorkloadKey, Enrolled] = {}
        self.cut_off: dict[WorkloadKey, CutOff] = {}
        self.pending: dict[WorkloadKey, EnrolledState] = {}

    def captured_networks(self, *, without: WorkloadKey | None = None) -> frozenset[IPNetwork]:
        """The mesh's CIDRs, and every address of every workload, which may lie outside of them."""
        own = {
            ip_network(address)
            for key, enrolled in self.enrolled.items()
            if key != without
            for address in enrolled.workload.addresses
        }
        return frozenset({*self._cidrs, *own})

    def holder_to_be(self, address: IPAddress, *, besides: WorkloadKey) -> WorkloadKey | None:
        """Who has had an address with the last agent, and is not served by this one (yet)."""
        if address.is_link_local:
            return None
        waiting = (*self.pending.values(), *(cut_off.state for cut_off in self.cut_off.values()))
        return next((s.key for s in waiting if address in s.addresses and s.key != besides), None)

    def forget(self, key: WorkloadKey) -> None:
        """It is not on its way any more."""
        self.pending.pop(key, None)
        self.save()

    def save(self) -> None:
        """Write down what there is; StateError when that cannot be."""
        states = {
            **self.pending,
            **{key: cut_off.state for key, cut_off in self.cut_off.items()},
            **{key: enrolled.state for key, enrolled in self.enrolled.items()},
        }
        self._state_file.save(states.values())


def remove_run(state: EnrolledState) -> None:
    """Remove the link and the network namespace that `interceptor run` made for a workload, and what is left inside."""
    if state.run is None:
        return
    if not state.run.owner.is_alive() and (netns := state.reference.reopen()) is not None:
        with netns:
            end_processes(netns)
    netlink.remove_link(state.run.host_link)
    assert state.reference.path is not None
    kernel_netns.remove_named(Path(state.reference.path))
