"""Keeps what is enrolled on this node the same as the pods that the cluster's API shows there.

Data flows one way: the API's snapshot and the enroller's set are compared, and the enroller is told the difference.
Nothing is remembered from one comparison to the next but what was told.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from interceptor.agent.members import PodClaim, Request
from interceptor.agent.reference import NamespaceReference, Process
from interceptor.cluster.membership import Standing
from interceptor.errors import EnrolmentError, InterceptorError, KernelError
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.kernel.pod_namespaces import find_pods_cgroup, open_pod, pod_cgroups
from interceptor.node_pods.elsewhere import Elsewhere
from interceptor.node_pods.pods import pods_of_node
from interceptor.node_pods.steps import Enrol, Held, Readdress, Relabel, Withdraw, steps
from interceptor.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from interceptor.agent.enroller import Enroller
    from interceptor.agent.pod_gate import PodGate
    from interceptor.agent.pod_probes import PodProbes
    from interceptor.agent.state import EnrolledState
    from interceptor.config import Config
    from interceptor.enrolment.registry import Registry
    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.kubernetes.cluster_watch import ClusterWatch
    from interceptor.node_pods.pods import NodePod
    from interceptor.node_pods.steps import Step
    from interceptor.proxy.snapshot import Snapshot
    from interceptor.workload import IPAddress

log = logging.getLogger(__name__)

GATHER_SECONDS: Final = 0.05  # changes of a big cluster come all the time, and most are about other nodes
RETRY_SECONDS: Final = 0.5  # for a pod whose namespace is not there yet: nobody tells when it is
IDLE_SECONDS: Final = 5.0  # a namespace may end, and another be there, without a change in the API


class PodKeeper:
    """The cluster as the source of this node's workloads.

    pods      those of this node, by UID, as of the last comparison
    trouble   by UID, why a pod that shall be in the mesh is not (yet), or could not be taken out
    is_done   whether everything was compared once
    probes    how the kubelet's probes of them are let through
    unguarded why pods of which nothing is known do not wait, None when they do
    """

    def __init__(
        self,
        config: Config,
        cgroup: Path,
        watch: ClusterWatch,
        enroller: Enroller,
        registry: Snapshot[Registry],
        gate: PodGate,
        probes: PodProbes,
        redecide: Callable[[], Awaitable[object]],
    ) -> None:
        """`cgroup` is the root of cgroup v2; `redecide` asks policy about all open connections again."""
        assert config.kubernetes is not None, "it is a node of a cluster"
        self._config = config
        self._cgroup = cgroup
        self._pods_cgroup = config.kubernetes.pods_cgroup
        self._watch = watch
        self._enroller = enroller
        self._registry = registry
        self._gate = gate
        self.probes = probes
        self._redecide = redecide
        self._wake = trio.Event()
        self._scope = trio.CancelScope()
        self._leaving: set[str] = set()
        self.pods: Mapping[str, NodePod] = {}
        self.trouble: dict[str, str] = {}
        self.is_done = False
        self.unguarded: str | None = None

    async def run(self, nursery: trio.Nursery) -> None:
        """Until cancelled or stopped; connections of the pods are served in `nursery`."""
        nursery.start_soon(self._wake_for_newcomers)
        with self._scope:
            await self._compare_for_ever(nursery)

    async def admit(self, nursery: trio.Nursery) -> None:
        """Let pods go that are outside of the mesh, and nothing else, until cancelled.

        They are held since an earlier agent: of them may be the authority itself, for which ours has to wait.
        """
        while True:
            cluster = self._watch.cluster
            if cluster.pods.is_listed and cluster.namespaces.is_listed:
                self._admit(pods_of_node(cluster, self._config.node, self._config.trust_domain), nursery)
            await trio.sleep(RETRY_SECONDS)

    def stop(self) -> None:
        """Compare no more: all that is enrolled is about to be withdrawn."""
        self._scope.cancel()

    async def _compare_for_ever(self, nursery: trio.Nursery) -> None:
        while True:
            self._wake = trio.Event()
            cluster = self._watch.cluster
            if cluster.pods.is_listed and cluster.namespaces.is_listed:
                try:
                    await self._compare(nursery)
                    self.probes.declare(self._enroller.enrolled, self.pods)
                    self._guard()
                except Exception as error:
                    # A fault of ours, with these pods: those that are enrolled stay so, and the agent goes on.
                    log.exception("the pods could not be compared with what is enrolled")
                    self.trouble["internal error"] = f"see the agent's log: {error}"
            with trio.move_on_after(RETRY_SECONDS if self.trouble else IDLE_SECONDS):
                await self._wake.wait()
            await trio.sleep(GATHER_SECONDS)

    async def follow(self) -> None:
        """Let the registry know of the pods of the other nodes, at each change; until cancelled."""
        config = self._config
        while True:
            cluster = self._watch.cluster
            others = Elsewhere(cluster, config.node, config.trust_domain, config.mesh_cidrs)
            self._registry.replace(self._registry.value.with_others(others))
            self._wake.set()
            while self._watch.cluster is cluster:
                await self._watch.wait_changed()

    async def _wake_for_newcomers(self) -> None:
        while True:
            await self._gate.wait_newcomer()
            self._wake.set()

    def _guard(self) -> None:
        """Let namespaces wait that are not known: from the first comparison on, when all that ran before are."""
        try:
            parent = self._parent()
            self._gate.guard(parent)
            self.probes.recognise(parent)
        except InterceptorError as error:
            if str(error) != self.unguarded:
                log.warning("new pods do not wait until they are known: %s", error)
            self.unguarded = str(error)
        else:
            self.unguarded = None

    async def _compare(self, nursery: trio.Nursery) -> None:
        cluster = self._watch.cluster
        pods = pods_of_node(cluster, self._config.node, self._config.trust_domain)
        held = tuple(self._held())
        found = (
            (address, each.uid, cluster.pod_at(address))
            for each in held
            for address in each.workload.addresses
        )
        claimed = frozenset(address for address, uid, pod in found if pod is not None and pod.head.uid != uid)
        before, self.trouble, self.pods = self.trouble, {}, pods
        self._leaving &= {each.uid for each in held}
        self._admit(pods, nursery)
        for step in steps(pods, held, claimed=claimed):
            uid = step.uid
            try:
                await self._take(step, nursery)
            except (InterceptorError, OSError) as error:
                if isinstance(step, Enrol) and pods[uid].standing is Standing.DRAINING:
                    continue  # it has ended already
                self.trouble[uid] = str(error)
                if before.get(uid) != str(error):
                    log.warning("pod %s: %s", pods[uid].key if uid in pods else uid, error)
        if not self.is_done:
            self._gate.forget_earlier()
        self.is_done = True

    def _admit(self, pods: Mapping[str, NodePod], nursery: trio.Nursery) -> None:
        """Let pods go that are outside of the mesh, before they are withdrawn, if they were in it."""
        with suppress(EnrolmentError, KernelError):  # no pod has run here yet, or the cgroup is going
            found = pod_cgroups(self._parent())
            outside = {
                uid: found.by_uid[uid]
                for uid, pod in pods.items()
                if pod.membership.is_free and uid in found.by_uid
            }
            outside |= {path.name: path for path in found.static}
            is_anybody_waiting = self._gate.is_anybody_waiting()
            for name, cgroup in outside.items():
                if is_anybody_waiting or not self._gate.is_admitted(name):
                    self._try_to_admit(name, cgroup, nursery)
            self._gate.retain(outside)

    def _try_to_admit(self, name: str, cgroup: Path, nursery: trio.Nursery) -> None:
        try:
            self._gate.admit(name, cgroup, nursery)
        except (InterceptorError, OSError) as error:
            self.trouble[name] = f"it waits, and should not: {error}"

    async def _take(self, step: Step, nursery: trio.Nursery) -> None:
        match step:
            case Enrol():
                await self._enrol(step, nursery)
            case Relabel():
                await self._enroller.relabel(step.workload.key, step.workload.labels)
                await self._redecide()
            case Readdress():
                await self._readdress(step, nursery)
            case Withdraw(may_drain=True):
                # Until its last process has ended: nothing may reach it, or leave it, in plaintext. Then the node sees it.
                if step.uid not in self._leaving:
                    log.info("%s is to end: %s", step.held.workload.key, step.why)
                self._leaving.add(step.uid)
            case _:
                await self._withdraw(step)

    async def _readdress(self, step: Readdress, nursery: trio.Nursery) -> None:
        """A pod whose sandbox was made anew has them in another namespace."""
        try:
            await self._enroller.readdress(step.workload.key, step.workload.addresses)
        except EnrolmentError:
            pid, netns = self._open(step)
            before = self._enroller.get(step.workload.key)
            if before is not None and netns.is_same_as(before.netns):
                netns.close()
                raise
            if before is not None:
                await self._enroller.withdraw(step.workload.key, cookie=before.cookie)
            await self._enrol_in(step, pid, netns, nursery)

    async def _withdraw(self, step: Withdraw) -> None:
        key = step.held.workload.key
        state = next((each for each in self._states() if each.pod_uid == step.uid), None)
        if state is not None:
            log.info("%s leaves the mesh: %s", key, step.why)
            await self._enroller.withdraw(key, cookie=state.reference.cookie)

    async def _enrol(self, step: Enrol, nursery: trio.Nursery) -> None:
        pid, netns = self._open(step)
        await self._enrol_in(step, pid, netns, nursery)

    def _open(self, step: Enrol | Readdress) -> tuple[int, NetworkNamespace]:
        cgroup = pod_cgroups(self._parent()).by_uid.get(step.uid)
        if cgroup is None:
            raise EnrolmentError(f"no cgroup below {self._parent()} is that of the pod yet")
        return open_pod(cgroup, step.workload.addresses)

    async def _enrol_in(
        self, step: Enrol | Readdress, pid: int, netns: NetworkNamespace, nursery: trio.Nursery
    ) -> None:
        workload = step.workload
        try:
            reference = NamespaceReference.of(netns, process=Process.find(pid))
        except BaseException:
            netns.close()
            raise
        request = Request(
            workload.namespace,
            workload.name,
            workload.service_account,
            reference,
            labels=workload.labels,
            pod=PodClaim(step.uid, workload.addresses),
        )
        self._gate.take_in(step.uid)
        await self._enroller.enrol(request, netns, nursery)

    def _parent(self) -> Path:
        found = self._pods_cgroup or find_pods_cgroup(self._cgroup)
        if found is None or not found.is_dir():
            where = found or f"kubepods.slice or kubepods below {self._cgroup}"
            raise EnrolmentError(f"the cgroup of all pods, {where}, is not there: set kubernetes.podsCgroup")
        return found

    def _states(self) -> Iterator[EnrolledState]:
        yield from (each.state for each in self._enroller.enrolled)
        yield from (each.state for each in self._enroller.cut_off)

    def _held(self) -> Iterator[Held]:
        """The pods that are enrolled, or cut off, as workloads."""
        for enrolled in self._enroller.enrolled:
            if enrolled.state.pod_uid is not None:
                yield Held(enrolled.state.pod_uid, self._as_workload(enrolled.state, enrolled.claim))
        for cut_off in self._enroller.cut_off:
            if cut_off.state.pod_uid is not None:
                yield Held(cut_off.state.pod_uid, self._as_workload(cut_off.state), is_cut_off=True)

    def _as_workload(self, state: EnrolledState, claim: Collection[IPAddress] | None = None) -> Workload:
        identity = SpiffeId(self._config.trust_domain, state.key.namespace, state.service_account)
        addresses = state.addresses if claim is None else claim
        own = tuple(address for address in addresses if not address.is_link_local)
        return Workload(state.key, identity, own, self._config.node, state.labels)

    def waiting_for(self) -> list[str]:
        """What must be so before the node is ready: later troubles are those of single pods."""
        return [] if self.is_done else ["comparing the node's pods with what is enrolled"]

    def shown(self) -> list[dict[str, object]]:
        """Every pod of this node, and how it stands; the keys are stable."""
        enrolled = {each.state.pod_uid for each in self._enroller.enrolled}
        found: list[dict[str, object]] = []
        for uid, pod in sorted(self.pods.items(), key=lambda item: item[1].key):
            state = pod.standing if uid in enrolled or not pod.is_meant else Standing.WAITING
            reason = self.trouble.get(uid) or pod.explanation
            found.append(
                {
                    "namespace": pod.key.namespace,
                    "name": pod.key.name,
                    "uid": uid,
                    "state": state.value,
                    "reason": reason,
                }
            )
        return found
