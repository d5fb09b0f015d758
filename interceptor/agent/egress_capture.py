"""Whose connections are captured wherever they lead: of those whom an EgressPolicy may deny what is outside of the mesh.

A change of policy goes in this order: capture everything of those whom the new set restricts (`widen`), put the set in
force, ask it again about what is open; then close what was begun outside of the mesh past the proxy and is denied now,
and let go of those whom nothing restricts any more (`settle`). So whoever connects after the change is asked about.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

import trio

from interceptor.errors import InterceptorError, PolicyError
from interceptor.kernel.socket_diag import begun_outside, destroy
from interceptor.policy.attempts import OutboundAttempt
from interceptor.policy.verdict import Denial, Transport
from interceptor.telemetry.connection_record import ClosedBy, CloseKind
from interceptor.workload import Direction, Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.agent.members import Enrolled, Members
    from interceptor.kernel.capture import Capture
    from interceptor.kernel.socket_diag import OpenConnection
    from interceptor.labels import Labels
    from interceptor.policy.policy_set import PolicySet
    from interceptor.proxy.snapshot import Snapshot
    from interceptor.workload import WorkloadKey

log = logging.getLogger(__name__)

PASSES = 5  # what is closed may have been followed by another one, from before the change too
# A connect(2) that passed the hook just before it was told may not have been in the kernel's table yet.
LOOK_AGAIN_SECONDS = 1.0
BEFORE = "it was open, past the proxy, when the policy came"


class EgressCapture:
    """Keeps the kernel's flags the same as what the policy in force needs; never less."""

    def __init__(self, capture: Capture, members: Members, policy: Snapshot[PolicySet]) -> None:
        self._capture = capture
        self._members = members
        self._policy = policy
        self._look_again_at = inf  # of trio's clock
        self._complaints: dict[WorkloadKey, str] = {}

    def is_needed(self, key: WorkloadKey, labels: Labels) -> bool:
        """Whether everything of such a workload is to be captured, by the policy in force."""
        return self._policy.value.capturing(key.namespace, labels)

    def widen(self, policies: PolicySet) -> None:
        """Capture everything of those whom `policies`, which are about to come into force, restrict.

        PolicyError when the kernel does not take it: the set must not come into force then.
        """
        try:
            if policies.capturing_strangers():
                self._capture.hold_everything(everything=True)
            for cookie, key, labels in self._everybody():
                if policies.capturing(key.namespace, labels):
                    self._capture.capture_everything(cookie, everything=True)
        except InterceptorError as error:
            raise PolicyError(f"an EgressPolicy cannot be put in force: {error}") from error

    def relabel(self, enrolled: Enrolled, labels: Labels) -> None:
        """The same before a workload gets other labels."""
        if self.is_needed(enrolled.workload.key, labels):
            self._capture.capture_everything(enrolled.cookie, everything=True)

    async def settle(self) -> int:
        """After a change: close what is open outside and denied, and let go of whom nothing restricts; returns how many."""
        policies = self._policy.value
        self._capture.hold_everything(everything=policies.capturing_strangers())
        for cookie, key, labels in self._everybody():
            self._capture.capture_everything(cookie, everything=policies.capturing(key.namespace, labels))
        self._look_again_at = trio.current_time() + LOOK_AGAIN_SECONDS
        return await self._close_all_denied()

    async def look_again(self) -> None:
        """Some time after a change; called now and then."""
        if trio.current_time() >= self._look_again_at:
            self._look_again_at = inf
            await self._close_all_denied()

    async def close_denied(self, enrolled: Enrolled) -> int:
        """Close what a workload has open outside of the mesh, past the proxy, and may not have; returns how many.

        What is open while nobody knows what the policies say stays so until they are known.
        """
        key = enrolled.workload.key
        if self._policy.value.pending or not self.is_needed(key, enrolled.workload.labels):
            return 0
        try:
            closed = await self._close_those_of(enrolled)
        except (InterceptorError, OSError) as error:
            if self._complaints.get(key) != str(error) and self._members.enrolled.get(key) is enrolled:
                log.error("what %s has open outside of the mesh is not closed: %s", key, error)  # noqa: TRY400
                self._complaints[key] = str(error)
            return 0
        self._complaints.pop(key, None)
        return closed

    async def open_past_the_proxy(self, policies: PolicySet) -> list[OutboundAttempt]:
        """What those have open outside of the mesh whom `policies` would restrict, and the policy in force does not."""
        found: list[OutboundAttempt] = []
        for enrolled in tuple(self._members.enrolled.values()):
            key, labels = enrolled.workload.key, enrolled.workload.labels
            if policies.capturing(key.namespace, labels) and not self.is_needed(key, labels):
                mesh = self._members.captured_networks()
                sockets = await trio.to_thread.run_sync(begun_outside, enrolled.netns, mesh)
                found += [_attempt(each, enrolled) for each in sockets if each.inode]
        return found

    async def _close_all_denied(self) -> int:
        closed = 0
        for enrolled in tuple(self._members.enrolled.values()):
            closed += await self.close_denied(enrolled)
        return closed

    async def _close_those_of(self, enrolled: Enrolled) -> int:
        closed = 0
        for _ in range(PASSES):
            mesh = self._members.captured_networks()
            found = await trio.to_thread.run_sync(begun_outside, enrolled.netns, mesh)
            verdicts = {each: self._policy.value.decide_outbound(_attempt(each, enrolled)) for each in found}
            denied = {each: verdict for each, verdict in verdicts.items() if isinstance(verdict, Denial)}
            if not denied:
                break
            for each in await trio.to_thread.run_sync(destroy, enrolled.netns, tuple(denied)):
                if each.inode:  # or the program has closed it, and only its last bytes were on their way
                    self._note(each, denied[each], enrolled)
                    closed += 1
        return closed

    @staticmethod
    def _note(connection: OpenConnection, denial: Denial, enrolled: Enrolled) -> None:
        context = enrolled.proxy.context
        record = context.begin(Direction.OUTBOUND)
        record.source = Endpoint(connection.local, connection.local_port)
        record.source_workload, record.source_identity = enrolled.workload, enrolled.workload.identity
        record.destination, record.is_outside = Endpoint(connection.remote, connection.remote_port), True
        record.transport = Transport.PLAINTEXT
        record.decide(Denial(denial.reason, f"{denial.detail}; {BEFORE}", denial.policy))
        record.finish(record.opened_monotonic, ClosedBy.INTERCEPTOR, CloseKind.RESET)
        context.recorder.closed(record)

    def _everybody(self) -> Iterator[tuple[int, WorkloadKey, Labels]]:
        """Those that are served, and those that are cut off: whoever has an entry in the kernel."""
        for enrolled in tuple(self._members.enrolled.values()):
            yield enrolled.cookie, enrolled.workload.key, enrolled.workload.labels
        for cut_off in tuple(self._members.cut_off.values()):
            yield cut_off.state.reference.cookie, cut_off.state.key, cut_off.state.labels


def _attempt(connection: OpenConnection, enrolled: Enrolled) -> OutboundAttempt:
    destination = Endpoint(connection.remote, connection.remote_port)
    at = enrolled.proxy.context.timestamp()
    return OutboundAttempt(enrolled.workload, destination, None, at, is_outside=True)
