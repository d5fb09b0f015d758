"""What must be done so that what is enrolled on a node is what shall be: a comparison, made anew after each change."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from interceptor.cluster.membership import Standing, Why
from interceptor.node_pods.pods import NodePod
from interceptor.workload import IPAddress, Workload, WorkloadKey


@dataclass(frozen=True, slots=True)
class Held:
    """A pod that is enrolled, or cut off, as the agent has it; the addresses are those that the API said it has."""

    uid: str
    workload: Workload
    is_cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take it out; with `may_drain` only when it has really ended, and its last connections have finished."""

    held: Held
    why: str
    may_drain: bool

    @property
    def uid(self) -> str:
        """The pod's."""
        return self.held.uid


@dataclass(frozen=True, slots=True)
class Relabel:
    """It has other labels now."""

    uid: str
    workload: Workload


@dataclass(frozen=True, slots=True)
class Readdress:
    """It has other addresses now, by the API."""

    uid: str
    workload: Workload


@dataclass(frozen=True, slots=True)
class Enrol:
    """Take it in."""

    uid: str
    workload: Workload


Step = Withdraw | Relabel | Readdress | Enrol


def steps(pods: Mapping[str, NodePod], held: Iterable[Held], *, claimed: frozenset[IPAddress]) -> list[Step]:
    """The steps in their order: what leaves makes room for what comes.

    `pods` are those of this node (`pods_of_node`); `claimed` are the addresses among those held that are another pod's
    now, wherever that is. Who has ended may drain only while nobody waits for its name or one of its addresses.
    """
    held = tuple(held)
    leaving = {
        each.uid: why for each in held if (why := _why_it_leaves(each, pods.get(each.uid))) is not None
    }
    staying = {each.uid for each in held} - leaving.keys()
    coming = [
        Enrol(uid, pod.workload)
        for uid, pod in pods.items()
        if pod.workload is not None and uid not in staying
    ]
    names = {each.workload.key for each in coming}
    addresses = claimed | {address for each in coming for address in each.workload.addresses}
    going = [
        Withdraw(each, leaving[each.uid], _may_drain(each, pods, names, addresses))
        for each in held
        if each.uid in leaving
    ]
    return [*going, *_changed(held, staying, pods), *coming]


def _why_it_leaves(held: Held, pod: NodePod | None) -> str | None:
    """Why it may not stay as it is enrolled; None when it may. What is not known is no reason."""
    if pod is None:
        return "the API shows it no more"
    if pod.standing is Standing.OUTSIDE:
        return pod.explanation
    if pod.standing is Standing.WAITING:
        return None
    if pod.workload is None:  # whose its address is must be certain; that of one that stays may yet become so
        return pod.explanation if pod.standing is Standing.DRAINING else None
    if pod.workload.identity != held.workload.identity or pod.workload.key != held.workload.key:
        return f"it is {pod.workload.identity} now"
    if held.is_cut_off and set(pod.workload.addresses) != set(held.workload.addresses):
        return f"it has the address {', '.join(map(str, pod.workload.addresses))} now"
    return None


def _may_drain(
    held: Held, pods: Mapping[str, NodePod], names: set[WorkloadKey], addresses: Iterable[IPAddress]
) -> bool:
    """Whether it has ended, and nobody waits for what it had: a pod that goes on outside of the mesh is let go at once."""
    pod = pods.get(held.uid)
    has_ended = pod is None or pod.membership.why is Why.FINISHED
    return has_ended and held.workload.key not in names and set(addresses).isdisjoint(held.workload.addresses)


def _changed(
    held: Iterable[Held], staying: set[str], pods: Mapping[str, NodePod]
) -> Iterator[Relabel | Readdress]:
    """What becomes of those that stay: they are never taken out for it, since nothing would protect them meanwhile."""
    for each in held:
        pod = pods.get(each.uid)
        wanted = pod.workload if pod is not None and each.uid in staying else None
        if wanted is not None and wanted.labels != each.workload.labels:
            yield Relabel(each.uid, wanted)
        if wanted is not None and set(wanted.addresses) != set(each.workload.addresses):
            yield Readdress(each.uid, wanted)
