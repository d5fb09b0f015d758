"""One running node: the tasks under its nursery, from taking over to stopping."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

import trio

from interceptor.admin import AdminServer
from interceptor.agent.audit import Audit
from interceptor.agent.clock import wall_clock
from interceptor.agent.directories import Locks
from interceptor.agent.doors import Doors
from interceptor.agent.draining import Draining
from interceptor.agent.enroller import Enroller
from interceptor.agent.follower import Follower
from interceptor.agent.hosts import HostsFiles
from interceptor.agent.members import CutOff
from interceptor.agent.policy_keeper import PolicyKeeper
from interceptor.agent.predecessors import Predecessors
from interceptor.agent.records import Records
from interceptor.agent.requests import Requests
from interceptor.agent.service_manager import READY, STOPPING, tell_service_manager
from interceptor.agent.state import Lock, StateFile
from interceptor.agent.succeeding import succeed
from interceptor.agent.succession import Succession
from interceptor.agent.workload_context import Shared
from interceptor.cluster.membership import Standing
from interceptor.credentials import Credentials, certificate_state
from interceptor.enrolment.departed import Departed
from interceptor.enrolment.registry import Registry
from interceptor.errors import InterceptorError, StateError
from interceptor.kernel import netlink
from interceptor.kernel.capture import Capture, is_attached
from interceptor.kernel.hold import Hold
from interceptor.kernel.probes import Probes
from interceptor.metrics_server import MetricsServer
from interceptor.policy.policy_set import PolicySet
from interceptor.proxy.late_denial import Lifetimes
from interceptor.proxy.route import by_ranges
from interceptor.proxy.snapshot import Snapshot

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from interceptor.agent.authority_access import AuthorityAccess
    from interceptor.agent.cluster_side import ClusterSide
    from interceptor.agent.handover_wire import Wire
    from interceptor.agent.members import Enrolled
    from interceptor.agent.predecessor import Inheritance, Predecessor
    from interceptor.config import Config
    from interceptor.identity.svid import X509Svid
    from interceptor.kernel.bpf_program import Programs
    from interceptor.proxy.route import Locate
    from interceptor.workload import IPAddress, Workload, WorkloadKey

log = logging.getLogger(__name__)

RECONCILE_SECONDS = 1.0
AGE_SECONDS = 1.0
SUCCESSOR_SECONDS = 60.0  # for one that prepares when we are told to end; a kubelet waits longer


class Node:
    """The agent while it runs."""

    def __init__(
        self,
        config: Config,
        access: AuthorityAccess,
        programs: Programs,
        cgroup: Path,
        before: Locks | Predecessor,
        cluster: ClusterSide | None = None,
    ) -> None:
        """`before` are the locks that nobody had, or the agent that has them and hands over."""
        self.config = config
        self.now = wall_clock
        self.audit = Audit(config.paths.audit, config.records.max_bytes, wall_clock)
        self.records = Records(config.records, self.audit, config.paths.state_dir)
        self.credentials = Credentials(access.link, config.certificates.lifetime, wall_clock, observer=self)
        self.capture = Capture(programs, config.paths.bpf_dir)
        self.registry = Snapshot(Registry.empty())
        self._departed = Departed()
        self.policy = Snapshot(
            PolicySet(config.mode, (), config.policy.root_namespace, config.policy.address_mismatch)
        )
        self.policies = PolicyKeeper(
            config,
            self.policy,
            self.audit,
            lambda: [e.proxy.context for e in self.enroller.enrolled],
            wall_clock,
            self.records.metrics,
            cluster.policies if cluster is not None else None,
            lambda: self.enroller.egress,
            leads=isinstance(before, Locks),
        )
        self.locate: Locate = (
            by_ranges(config.mesh_cidrs, self._may_be_ours) if cluster is None else cluster.routes
        )
        self.started_at = wall_clock()
        self.state_file = StateFile(config.paths.run_dir)
        self.predecessors = Predecessors()
        self.enroller = Enroller(
            Shared(
                config,
                self.capture,
                self.records,
                self.policy,
                self.registry,
                self._departed,
                wall_clock,
                self.locate,
            ),
            self.credentials,
            self.state_file,
            self.predecessors.relayed_of,
        )
        self.follower = Follower(
            config,
            access,
            self.credentials,
            self.enroller.beliefs,
            self.registry,
            self.records,
            is_registry=cluster is None,
            leads=isinstance(before, Locks),
        )
        self.cluster = cluster
        if cluster is not None:
            self.records.metrics.follow_cluster(
                [each.value for each in Standing], cluster.count, lambda: len(cluster.problems())
            )
            cluster.keep_pods(programs, cgroup, self.enroller, self.registry, self.policies.redecide)
            cluster.tell_of(self)
        self.hosts = HostsFiles(config.paths.run_dir / "hosts")
        self.programs = programs
        self._cgroup = cgroup
        self._predecessor = None if isinstance(before, Locks) else before
        self._locks = before if isinstance(before, Locks) else None
        self.succession = Succession(self)
        self.doors: Doors | None = None
        self.draining: Draining | None = None  # once another agent serves the node
        self._leading = trio.CancelScope()  # around what only the agent does that serves the node
        self._was_told_to_end = False
        self.ready = trio.Event()  # everything of the last agent is taken over, and the programs are in force
        self._stop = trio.Event()
        self.is_leaving = False  # nobody will come after us: whoever ran us must tear down

    def _may_be_ours(self, address: IPAddress) -> bool:
        """Whether a workload had an address until a moment ago, or will have it again."""
        just_gone = self._departed.holder(address, trio.current_time())
        return just_gone is not None or self.enroller.will_be_back(address)

    # Told by the credentials.

    def renewed(self, workload: Workload, svid: X509Svid) -> None:
        """A workload has a new certificate."""
        self.records.metrics.renewal("success")
        self.records.metrics.expiry.set_certificate(
            workload.key, workload.identity, svid.issued_at.timestamp(), svid.not_after.timestamp()
        )
        self.follower.renewed()

    def renewal_failed(self, workload: Workload, error: str) -> None:
        """A workload's certificate could not be renewed; the credentials try again."""
        del workload, error  # the credentials keep and log them
        self.records.metrics.renewal("failure")

    # The life of the agent.

    async def run(self) -> None:
        """Until a signal or `down`; captured workloads stay captured, unless they were withdrawn."""
        if self._predecessor is None:
            self.doors = await Doors.open(self.config)
            self.records.remember(self.now().timestamp())
        else:
            self.records.leave_to_another()
        async with trio.open_nursery() as nursery:
            leaders = await nursery.start(self._lead)
            if self.cluster is not None:
                nursery.start_soon(self.cluster.run)
                await self.cluster.wait_for_policies()
            self.policies.start()  # before anything is served
            nursery.start_soon(self.records.run)
            nursery.start_soon(self.policies.run)
            nursery.start_soon(self._watch_signals, nursery)
            nursery.start_soon(self._note_departed_for_ever)
            nursery.start_soon(self._end_when_stopped, nursery.cancel_scope)
            if self.doors is not None:
                self._serve_doors(self.doors, nursery, leaders)
            await self._open_authority(nursery)
            nursery.start_soon(self.follower.run)
            if self.cluster is not None and self.cluster.keeper is not None:
                nursery.start_soon(self.cluster.keeper.follow)
            if self._predecessor is None:
                await self._take_over(nursery, {})
            else:
                await self._succeed(self._predecessor, nursery, leaders)
            nursery.start_soon(self._close_aged_for_ever)
            leaders.start_soon(self._reconcile_for_ever, nursery)
            if self.cluster is not None and self.cluster.keeper is not None:
                leaders.start_soon(self.cluster.keeper.run, nursery)
                if self.cluster.status is not None:
                    leaders.start_soon(self.cluster.status.run)
            else:  # a cluster says which workloads there are; without one they have names of their own
                leaders.start_soon(self._write_hosts_for_ever)
            self.ready.set()
            log.info(
                "ready: node %s, trust domain %s, mode %s",
                self.config.node,
                self.config.trust_domain,
                self.config.mode,
            )
            tell_service_manager(READY)

    async def _open_authority(self, nursery: trio.Nursery) -> None:
        """Pods outside of the mesh do not wait for it meanwhile: it may be among them."""
        async with trio.open_nursery() as meanwhile:
            # An agent that serves still does that itself.
            is_first = self._predecessor is None
            if is_first and self.cluster is not None and self.cluster.keeper is not None:
                meanwhile.start_soon(self.cluster.keeper.admit, nursery)
            await self.follower.open()
            meanwhile.cancel_scope.cancel()

    async def _lead(self, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        with self._leading:
            async with trio.open_nursery() as leaders:
                task_status.started(leaders)
                await trio.sleep_forever()

    def _serve_doors(self, doors: Doors, nursery: trio.Nursery, leaders: trio.Nursery) -> None:
        metrics = MetricsServer(self.records.metrics.expose, self._unready, self._warnings)
        leaders.start_soon(metrics.serve, doors.metrics)
        leaders.start_soon(AdminServer(Requests(self, nursery).commands).serve, doors.admin)
        nursery.start_soon(self.succession.serve, doors.succession, nursery)

    # Between two agents of the node.

    async def _succeed(self, predecessor: Predecessor, nursery: trio.Nursery, leaders: trio.Nursery) -> None:
        """Take over from an agent that serves until we do."""
        inherited = await succeed(self, predecessor)
        self._locks, self.doors = inherited.locks, inherited.doors
        self.records.remember(self.now().timestamp())
        await self._take_over(nursery, inherited.listeners)
        if not await predecessor.confirm():
            raise StateError(
                f"agent {predecessor.pid} waited too long for this one, and goes on serving this node: start this agent "
                "again"
            )
        self._begin_to_lead(predecessor, inherited, nursery, leaders)

    def _begin_to_lead(
        self,
        predecessor: Predecessor,
        inherited: Inheritance,
        nursery: trio.Nursery,
        leaders: trio.Nursery,
    ) -> None:
        assert self.doors is not None, "they were handed over"
        self.doors.claim()
        self.succession.came_after = predecessor.instances
        self.follower.lead()
        self.policies.lead()
        self.credentials.forget_obtained()
        for wire in (predecessor.wire, *inherited.draining):
            leaders.start_soon(self.predecessors.follow, wire)
        self._serve_doors(self.doors, nursery, leaders)

    @property
    def locks(self) -> Locks:
        assert self._locks is not None, "who serves has them"
        return self._locks

    def release_locks(self) -> None:
        """At the very end; those that another agent has too stay its own."""
        if self._locks is not None:
            self._locks.release()

    def take_back(self) -> None:
        """Another agent was given all, and did not say that it serves: put our own programs in force again."""
        self.enroller.reassert()
        self.capture.activate(self._cgroup)

    async def retire(self, wire: Wire) -> None:
        """Another agent serves the node now: relay what is open, and end."""
        self.draining = Draining(self, wire)
        tell_service_manager(f"MAINPID={wire.pid}")
        self._leading.cancel()
        self.enroller.retire()
        self.policies.stop_leading()
        self.follower.stop_leading()
        self.records.leave_to_another()
        assert self.doors is not None, "who has served has doors"
        trio.lowlevel.notify_closing(self.doors.succession)
        self.doors.succession.close()
        self.locks.release()
        await self.draining.run()
        if self.cluster is not None and not self._was_told_to_end:
            await self.draining.idle()
        self.stop()

    def is_node_taken(self) -> bool:
        """Whether some agent has this node."""
        try:
            Lock(self.config.paths.run_dir, "paths.run").release()
        except StateError:
            return True
        return False

    async def _end_when_stopped(self, scope: trio.CancelScope) -> None:
        """Also while it is still waiting for something to begin with."""
        await self._stop.wait()
        if self.draining is None:
            tell_service_manager(STOPPING)
        scope.cancel()

    def stop(self) -> None:
        """End `run` soon."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        """Whether this agent is about to end, or has handed over already."""
        return self._stop.is_set() or self.draining is not None

    def missing(self) -> list[str]:
        """What keeps the agent from being ready; empty when it is."""
        missing = [] if self.ready.is_set() else ["taking over the workloads of the last agent"]
        if (joining := self.follower.access.waiting_for) is not None:
            missing.append(f"joining the authority: {joining}")
        missing += self.cluster.waiting_for() if self.cluster is not None else ()
        missing += [
            f"no certificate for {enrolled.workload.key}"
            for enrolled in self.enroller.enrolled
            if enrolled.proxy.context.tls.value is None and not self._is_refused(enrolled)
        ]
        return missing

    def ensure_bridge(self) -> None:
        """Have the bridge of `interceptor run`; when it is a new one, with the links of everything that runs already."""
        bridge = self.config.bridge
        owner = self.config.paths.run_dir
        is_new = netlink.ensure_bridge(bridge.name, bridge.ipv4, bridge.ipv6, owner=owner)
        if is_new and (links := self._run_links()):
            netlink.join_bridge(bridge.name, links)
            log.warning("somebody removed bridge %s: it was made anew", bridge.name)

    def _run_links(self) -> list[str]:
        everything: tuple[Enrolled | CutOff, ...] = (*self.enroller.enrolled, *self.enroller.cut_off)
        return [found.state.run.host_link for found in everything if found.state.run is not None]

    def _unready(self) -> list[str]:
        """What is missing, and which certificates are not valid: their workloads are refused everything."""
        detached = self.ready.is_set() and not is_attached(self.config.paths.bpf_dir)
        return [
            *(["the capture programs are not attached: restart the agent"] if detached else ()),
            *self.missing(),
            *self._certificates("expired"),
            *self._certificates("not_yet_valid"),
        ]

    def _warnings(self) -> list[str]:
        """What does not keep the node from being ready, yet."""
        return [*self._certificates("late"), *(self.cluster.warnings() if self.cluster is not None else ())]

    def _certificates(self, state: str) -> list[str]:
        """A line for each workload whose certificate is in this state (see `certificate_state`)."""
        now, found = wall_clock(), []
        for enrolled in self.enroller.enrolled:
            status = self.credentials.status(enrolled.workload.key)
            if status is None or status.is_refused:
                continue
            if certificate_state(status.svid, now) == state:
                error = f": {status.last_error}" if status.last_error else ""
                found.append(f"certificate of {enrolled.workload.key} is {state}{error}")
        return found

    def _is_refused(self, enrolled: Enrolled) -> bool:
        """Whether the authority lets one workload have no certificate: that is its own problem, and not the node's."""
        status = self.credentials.status(enrolled.workload.key)
        return status is not None and status.is_refused

    async def _take_over(self, nursery: trio.Nursery, listeners: dict[int, list[socket.socket]]) -> None:
        await self.enroller.take_over(self.state_file.load(), nursery, listeners)
        self.enroller.egress.widen(self.policy.value)
        # Only now: the programs of the last agent were in force until here.
        self.capture.activate(self._cgroup)
        if self.cluster is None:
            self._guard_nothing()
        everything: tuple[Enrolled | CutOff, ...] = (*self.enroller.enrolled, *self.enroller.cut_off)
        self.capture.forget_others(found.state.reference.cookie for found in everything)

    def _guard_nothing(self) -> None:
        """Undo what an earlier agent did here for a cluster: nobody would let go what waits."""
        Hold(self.programs, self.config.paths.bpf_dir).guard([])
        Probes(self.programs, self.config.paths.bpf_dir).recognise(None)

    async def _watch_signals(self, nursery: trio.Nursery) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                await self._end_on(signal.Signals(number).name, nursery)

    async def _end_on(self, name: str, nursery: trio.Nursery) -> None:
        is_removed = self.cluster is not None and await self.cluster.is_being_removed()
        is_second, self._was_told_to_end = self._was_told_to_end, True
        if self.draining is not None:
            if is_removed or is_second:
                log.info("stopping on %s; what is relayed still is reset", name)
                self.draining.end()
            else:
                self.draining.need_not_stay()
                log.info("%s: going on until what is open has ended", name)
        elif self.succession.successor is not None and not is_removed and not is_second:
            log.info("%s: going on until agent %d has taken over", name, self.succession.successor)
            nursery.start_soon(self._stop_unless_succeeded)
        else:
            self.is_leaving = is_removed
            what = (
                "the mesh is being removed, everything is withdrawn"
                if is_removed
                else "enrolled workloads stay captured"
            )
            log.info("stopping on %s; %s", name, what)
            self.stop()

    async def _stop_unless_succeeded(self) -> None:
        with trio.move_on_after(SUCCESSOR_SECONDS):
            while self.succession.successor is not None and self.draining is None:  # noqa: ASYNC110
                await trio.sleep(0.1)
        if self.draining is None:
            log.info("nobody has taken over; enrolled workloads stay captured")
            self.stop()

    async def _reconcile_for_ever(self, nursery: trio.Nursery) -> None:
        complaints: dict[WorkloadKey, str] = {}
        bridge_complaint = ""
        while True:
            await trio.sleep(RECONCILE_SECONDS)
            before, complaints = complaints, {}
            bridge_complaint = self._keep_bridge(bridge_complaint)
            await self.enroller.egress.look_again()
            everything: tuple[Enrolled | CutOff, ...] = (*self.enroller.enrolled, *self.enroller.cut_off)
            for found in everything:
                try:
                    await self._reconcile(found, nursery)
                except (InterceptorError, OSError) as error:
                    # Nothing that a workload does to its namespace may end the agent, nor fill its log.
                    key = found.state.key
                    complaints[key] = str(error)
                    if before.get(key) != str(error):
                        log.warning("%s: %s", key, error)
                await trio.lowlevel.checkpoint()

    def _keep_bridge(self, complaint: str) -> str:
        """Make the bridge again if somebody removed it; why it cannot be made, which is logged once (`complaint`)."""
        try:
            if self._run_links() and not netlink.has_link(self.config.bridge.name):
                self.ensure_bridge()
        except InterceptorError as error:
            if complaint != str(error):
                log.warning("the workloads of 'interceptor run' are cut off: %s", error)
            return str(error)
        return ""

    async def _reconcile(self, found: Enrolled | CutOff, nursery: trio.Nursery) -> None:
        key = found.state.key
        if self._has_ended(found):
            log.info("%s has ended", key)
            await self.enroller.drain(key)
            await self.enroller.withdraw(key, cookie=found.state.reference.cookie)
        elif isinstance(found, CutOff):
            await self.enroller.restore(found.state, nursery)

    @staticmethod
    def _has_ended(found: Enrolled | CutOff) -> bool:
        if found.state.run is not None:
            return not found.state.run.owner.is_alive()
        if isinstance(found, CutOff):
            return False  # whether its namespace is there is seen when it is opened again
        return not found.state.reference.is_alive() and not found.netns.has_processes()

    async def _close_aged_for_ever(self) -> None:
        lifetimes = Lifetimes(
            self.config.certificates.expired_peer_grace, self.config.limits.connection_max_age
        )
        while True:
            await trio.sleep(AGE_SECONDS)
            self.enroller.beliefs.close_aged(lifetimes, wall_clock())

    async def _note_departed_for_ever(self) -> None:
        before = self.registry.value
        while True:
            after = await self.registry.wait_changed()
            self._departed.note(before, after, trio.current_time())
            before = after

    async def _write_hosts_for_ever(self) -> None:
        registry = self.registry.value
        while True:
            self.hosts.write(registry)
            registry = await self.registry.wait_changed()
