"""Take workloads into the mesh and out of it.

Enrolment is a transaction: each step that changes the kernel registers how it
is undone, and a failure undoes what was done.  The order is what keeps it safe:
capture is on before the workload is known to others, and it is switched off
last when a workload is withdrawn.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from interceptor.agent.attendant import Attendant
from interceptor.agent.beliefs import Beliefs
from interceptor.agent.claims import Claims
from interceptor.agent.egress_capture import EgressCapture
from interceptor.agent.listeners import by_port, steering_slots
from interceptor.agent.members import CutOff, Members, Request, remove_run
from interceptor.agent.preparation import Preparation
from interceptor.errors import EnrolmentError, InterceptorError
from interceptor.kernel.return_path import remove_return_path
from interceptor.kernel.socket_diag import destroy_established
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.verdict import Reason

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from interceptor.agent.members import Enrolled
    from interceptor.agent.state import EnrolledState, StateFile
    from interceptor.agent.workload_context import Shared
    from interceptor.credentials import Credentials
    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.labels import Labels
    from interceptor.workload import IPAddress, WorkloadKey

log = logging.getLogger(__name__)

# What a program wrote before it ended may still be on its way to a slow reader.
DRAIN_SECONDS = 45.0
STALLED_SECONDS = 5.0
DRAIN_POLL_SECONDS = 0.02


class Enroller:
    """The one who changes the set of workloads; its methods run one at a time."""

    def __init__(
        self,
        shared: Shared,
        credentials: Credentials,
        state_file: StateFile,
        relayed_elsewhere: Callable[[WorkloadKey], tuple[int, int]] = lambda _: (0, 0),
    ) -> None:
        """`relayed_elsewhere` says how many connections of a workload an earlier agent has, and what they carried."""
        self._capture = shared.capture
        self._records = shared.records
        self._policy = shared.policy
        self._registry = shared.registry
        self._relayed_elsewhere = relayed_elsewhere
        self.lock = self._lock = trio.Lock()  # whoever has it may change which workloads there are
        self._members = Members(state_file, shared.config.mesh_cidrs)
        self.egress = EgressCapture(shared.capture, self._members, shared.policy)
        claims = Claims(shared.config, self._members, shared.registry)
        self._preparation = Preparation(shared, self._members, claims)
        self.beliefs = Beliefs(self._members)
        self._attendant = Attendant(shared, self._members, claims, self.beliefs, credentials, self._lock)

    @property
    def enrolled(self) -> tuple[Enrolled, ...]:
        """Everything enrolled, by namespace and name."""
        return tuple(self._members.enrolled[key] for key in sorted(self._members.enrolled))

    @property
    def cut_off(self) -> tuple[CutOff, ...]:
        """What could not be taken over, by namespace and name."""
        return tuple(self._members.cut_off[key] for key in sorted(self._members.cut_off))

    def will_be_back(self, address: IPAddress) -> bool:
        """Whether a workload of the last agent has an address which is not served by this one (yet)."""
        waiting = (
            *self._members.pending.values(),
            *(found.state for found in self._members.cut_off.values()),
        )
        return any(address in state.addresses for state in waiting)

    def get(self, key: WorkloadKey) -> Enrolled | None:
        return self._members.enrolled.get(key)

    async def enrol(self, request: Request, netns: NetworkNamespace, nursery: trio.Nursery) -> Enrolled:
        """Enrol a network namespace, which is ours to close from now on; returns when it has its certificate.

        A pod stays also while it gets none: it shall be in the mesh, and has nothing in plaintext meanwhile.
        """
        async with self._lock:
            with ExitStack() as undo:
                undo.callback(netns.close)
                enrolled = self._preparation.prepare(request, netns, undo)
                del self._members.pending[enrolled.workload.key]
                # Before the proxy has connections of its own in there, which would be among them.
                if self._policy.value.modes.at(enrolled.workload, 0).mode is MtlsMode.STRICT:
                    cut = destroy_established(netns, self._members.captured_networks())
                    if cut:
                        log.info("%s: %d connections from before its enrolment were reset", request.name, cut)
                undo.pop_all()
            self._admit(enrolled, nursery)
            await self.egress.close_denied(enrolled)
            if request.pod is None and not await self._attendant.has_certificate(enrolled):
                self._withdraw(enrolled)
                raise EnrolmentError(
                    f"workload {enrolled.workload.key} cannot be enrolled, it gets no certificate: "
                    f"{self._attendant.why_no_certificate(enrolled)}"
                )
            log.info("enrolled %s as %s", enrolled.workload.key, enrolled.workload.identity)
            return enrolled

    async def take_over(
        self,
        states: Iterable[EnrolledState],
        nursery: trio.Nursery,
        listeners: dict[int, list[socket.socket]] | None = None,
    ) -> None:
        """Restore everything that the last agent had enrolled, with the listening sockets that it has handed over."""
        self._preparation.handed_over = listeners or {}
        self._members.pending = {state.key: state for state in states}
        for state in tuple(self._members.pending.values()):
            await self.restore(state, nursery)
        # Also without any: what unknown namespaces send there waits.
        self._capture.set_prefixes(self._members.captured_networks())

    async def restore(self, state: EnrolledState, nursery: trio.Nursery) -> None:
        """Take over a workload that the last agent had enrolled, or forget it when its network namespace is gone.

        One that cannot be taken over stays captured, and so is refused everything.
        """
        async with self._lock:
            before = self._members.cut_off.get(state.key)
            try:
                enrolled = self._reopen(state)
            except (InterceptorError, OSError) as error:
                if before is None or before.error != str(error):
                    log.error("cannot take over %s, it stays cut off: %s", state.key, error)  # noqa: TRY400
                self._members.cut_off[state.key] = CutOff(state, str(error))
            else:
                self._members.cut_off.pop(state.key, None)
                if enrolled is not None:
                    self._admit(enrolled, nursery)
                    await self.egress.close_denied(enrolled)
                    log.info("took over %s", state.key)
            self._members.pending.pop(state.key, None)

    def _reopen(self, state: EnrolledState) -> Enrolled | None:
        """Capture and listen again; None, and nothing is left of it, when its network namespace is gone."""
        netns = state.reference.reopen()
        if netns is None or (state.run is not None and not state.run.owner.is_alive()):
            log.info("%s ended while no agent was there", state.key)
            if netns is not None:
                netns.close()
            self._capture.withdraw(state.reference.cookie)
            remove_run(state)
            self._members.cut_off.pop(state.key, None)
            self._members.forget(state.key)
            return None
        request = Request(
            state.key.namespace,
            state.key.name,
            state.service_account,
            state.reference,
            state.run,
            state.labels,
        )
        with ExitStack() as undo:
            undo.callback(netns.close)
            everything = self.egress.is_needed(state.key, state.labels)
            undo.callback(self._capture.hold, state.reference.cookie, everything=everything)
            enrolled = self._preparation.prepare(request, netns, undo, previous=state)
            undo.pop_all()
        return enrolled

    async def drain(self, key: WorkloadKey) -> None:
        """Let a workload that has ended deliver its last bytes: wait for its connections, while they make progress."""
        enrolled = self._members.enrolled.get(key)
        if enrolled is None:
            return
        before, moved_at = self._relayed(enrolled), trio.current_time()
        with trio.move_on_after(DRAIN_SECONDS):
            while before[0] and trio.current_time() - moved_at < STALLED_SECONDS:
                await trio.sleep(DRAIN_POLL_SECONDS)
                after = self._relayed(enrolled)
                if after != before:
                    before, moved_at = after, trio.current_time()

    def _relayed(self, enrolled: Enrolled) -> tuple[int, int]:
        """How many connections of a workload are open, here and with an earlier agent, and what they have carried."""
        live = enrolled.proxy.context.live
        count, carried = self._relayed_elsewhere(enrolled.workload.key)
        return len(live) + count, live.bytes_carried + carried

    def reassert(self) -> None:
        """Put this agent's programs in force again for every workload: another one may have put its own there."""
        for enrolled in self._members.enrolled.values():
            self._capture.enrol(
                enrolled.netns,
                enrolled.cookie,
                enrolled.local,
                steering_slots(by_port(enrolled.proxy.listeners)),
                everything=self.egress.is_needed(enrolled.workload.key, enrolled.workload.labels),
            )

    def retire(self) -> None:
        """Take no more connections, and look after nobody: another agent does. What is open goes on."""
        for enrolled in self._members.enrolled.values():
            enrolled.proxy.stop_accepting()
            enrolled.scope.cancel()

    def let_go(self, enrolled: Enrolled) -> None:
        """Reset what is open of a workload that another agent has withdrawn; the kernel is that one's to change."""
        self._registry.replace(self._registry.value.without(enrolled.workload.key))
        enrolled.proxy.stop(Reason.WITHDRAWN)
        del self._members.enrolled[enrolled.workload.key]

    def become(self, enrolled: Enrolled, state: EnrolledState) -> None:
        """A workload has other labels or addresses, as another agent has written down."""
        changed = replace(enrolled.workload, labels=state.labels, addresses=state.addresses)
        enrolled.become(changed)
        self._registry.replace(self._registry.value.without(changed.key).with_workload(changed))

    async def relabel(self, key: WorkloadKey, labels: Labels) -> None:
        """Give a workload other labels; policy is to be asked about its connections again."""
        async with self._lock:
            enrolled = self._members.enrolled.get(key)
            if enrolled is not None:
                self.egress.relabel(enrolled, labels)
                enrolled.become(replace(enrolled.workload, labels=labels))
                self._registry.replace(self._registry.value.without(key).with_workload(enrolled.workload))
                self._members.save()

    async def readdress(self, key: WorkloadKey, claim: Iterable[IPAddress]) -> None:
        """A pod has other addresses now, by its API; EnrolmentError when its namespace has none of them.

        It stays in the mesh all the time, with its connections.
        """
        async with self._lock:
            enrolled = self._members.enrolled.get(key)
            if enrolled is not None:
                enrolled.claim = frozenset(claim)
                self._attendant.refresh_addresses(enrolled)

    async def withdraw(self, key: WorkloadKey, *, cookie: int | None = None) -> None:
        """Take a workload out: its connections are reset, its network namespace is as it was before.

        With `cookie` only if it is the one in that namespace: another may have its name since.
        """
        async with self._lock:
            enrolled = self._members.enrolled.get(key)
            cut_off = self._members.cut_off.get(key)
            state = enrolled.state if enrolled is not None else cut_off.state if cut_off is not None else None
            if cookie is not None and (state is None or state.reference.cookie != cookie):
                return
            if enrolled is None and key in self._members.cut_off:
                self._release(key)
                return
            if enrolled is None:
                raise EnrolmentError(f"workload {key} is not enrolled: see 'interceptor workloads'")
            self._withdraw(enrolled)
            log.info("withdrew %s", key)

    def _admit(self, enrolled: Enrolled, nursery: trio.Nursery) -> None:
        """Start serving it, and let the others know of it."""
        nursery.start_soon(enrolled.proxy.run)
        nursery.start_soon(self._attendant.attend, enrolled)
        self._registry.replace(self._registry.value.with_workload(enrolled.workload))
        self._records.metrics.set_workloads(len(self._members.enrolled))

    def _withdraw(self, enrolled: Enrolled) -> None:
        key = enrolled.workload.key
        self._registry.replace(self._registry.value.without(key))
        enrolled.proxy.stop(Reason.WITHDRAWN)
        enrolled.scope.cancel()
        del self._members.enrolled[key]
        self._records.metrics.forget(key)
        self._records.metrics.set_workloads(len(self._members.enrolled))
        # Each of these whatever becomes of the others.  Capture last of all that matters: until then nothing passes in
        # plaintext.  The state file last of all: until then, whoever comes after us knows what is left to be undone.
        with ExitStack() as steps:
            steps.callback(self._members.save)
            steps.callback(remove_run, enrolled.state)
            steps.callback(enrolled.netns.close)
            steps.callback(remove_return_path, enrolled.netns, enrolled.state.previous_sysctls)
            steps.callback(lambda: self._capture.set_prefixes(self._members.captured_networks()))
            steps.callback(self._capture.withdraw, enrolled.cookie)

    def _release(self, key: WorkloadKey) -> None:
        """Let go of a workload that nobody serves; it stays cut off when something fails."""
        state = self._members.cut_off[key].state
        netns = state.reference.reopen()
        self._capture.withdraw(state.reference.cookie)
        if netns is not None:
            with netns:
                remove_return_path(netns, state.previous_sysctls)
        remove_run(state)
        del self._members.cut_off[key]
        self._members.save()
