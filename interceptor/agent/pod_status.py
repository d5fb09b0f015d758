"""Tells the cluster's API how this node's pods stand: a condition in the status of each, and Events when that changes.

A task of its own that looks every second at what is so and at what the API shows, and nobody waits for it. An API that
is away, slow or refuses delays what is said, and nothing else.
"""

from __future__ import annotations

import logging
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import trio

from interceptor.agent.clock import wall_clock
from interceptor.agent.health import capture_problem, revocation_of
from interceptor.cluster_status.bodies import STRATEGIC_MERGE, pod_status_patch, pod_status_path
from interceptor.cluster_status.changes import Changes, Wanted
from interceptor.cluster_status.events import EventLog, Subject
from interceptor.cluster_status.pod_condition import (
    CertificateFacts,
    PodState,
    is_worth_a_warning,
    pod_condition,
)
from interceptor.cluster_status.pod_events import pod_happening, pod_subject
from interceptor.cluster_status.token_bucket import TokenBucket
from interceptor.credentials import certificate_state
from interceptor.errors import AuthorityRefusal
from interceptor.kubernetes.event_sender import EventSender
from interceptor.kubernetes.status_writer import Outcome, StatusWriter
from interceptor.telemetry.pod_series import PodSample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from interceptor.agent.members import Enrolled
    from interceptor.agent.node import Node
    from interceptor.agent.pod_keeper import PodKeeper
    from interceptor.cluster.condition import Condition
    from interceptor.kubernetes.client import ApiClient
    from interceptor.node_pods.pods import NodePod

log = logging.getLogger(__name__)

CONTROLLER: Final = "interceptor.io/agent"
LOOK_SECONDS: Final = 1.0
# A node of 250 pods that starts is told within a minute; 5,000 nodes that do so at once stay below what an API bears.
CONDITIONS: Final = (25, 5.0)
EVENTS: Final = (25, 0.5)
FAULT_SECONDS: Final = 30.0  # between two looks at what the kernel has of a pod
FAULTS_A_LOOK: Final = 3  # each takes a millisecond, in which nothing else is done


class PodStatus:
    """Owner of what is said of this node's pods.

    conditions  by UID, what shall be said
    """

    def __init__(self, node: Node, keeper: PodKeeper, client: ApiClient, *, writes_conditions: bool) -> None:
        self._node = node
        self._keeper = keeper
        self._client = client
        self._writes = writes_conditions
        self._changes: Changes[str] = Changes(TokenBucket(*CONDITIONS))
        self._faults: dict[str, tuple[float, str | None]] = {}
        name = node.config.node
        whole = Subject("v1", "Node", "", name, name)  # the UID as kubelets have it in their Events
        self._writer = StatusWriter("the pods' conditions")
        self._events = EventSender(
            client, EventLog(TokenBucket(*EVENTS), whole), CONTROLLER, name, wall_clock
        )
        self.conditions: Mapping[str, Condition] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                self._look()
                await self._write()
                await self._events.send()
            except Exception:
                # A fault of ours, with these pods: they go on, and so does the agent.
                log.exception("how the pods stand could not be told")
            await trio.sleep(LOOK_SECONDS)

    @property
    def problems(self) -> list[str]:
        """Why something is not told, a line each."""
        found = (("conditions of pods", self._writer), ("Events", self._events.writer))
        return [f"{what} are not written: {each.problem}" for what, each in found if each.problem]

    def seconds_since(self, uid: str) -> float | None:
        """For how long the same would have been said of a pod by this agent."""
        since = self._changes.since(uid)
        return None if since is None else trio.current_time() - since

    def samples(self) -> Iterator[PodSample]:
        """For the metrics: every pod of which something is to be said, but those that nobody wants in the mesh."""
        for uid, condition in sorted(self.conditions.items()):
            pod = self._keeper.pods.get(uid)
            if pod is not None and (condition.holds or is_worth_a_warning(condition.reason)):
                identity = pod.membership.identity
                account = identity.service_account if identity is not None else ""
                yield PodSample(pod.key.namespace, pod.key.name, account, condition.reason, condition.holds)

    def _look(self) -> None:
        """See how all pods are, and what of that somebody should hear."""
        now, pods = trio.current_time(), self._keeper.pods
        if not self._keeper.is_done:
            return
        found = {uid: pod_condition(state) for uid, state in self._states(now).items()}
        self.conditions = {uid: condition for uid, condition in found.items() if condition is not None}
        self._changes.want(
            {uid: Wanted(condition, pods[uid].told) for uid, condition in self.conditions.items()}, now
        )
        for uid, condition, was_well in self._changes.news(now):
            subject = pod_subject(pods[uid].key, uid)
            self._events.log.happened(
                pod_happening(subject, condition, was_well=was_well), condition.message, now
            )

    async def _write(self) -> None:
        if not self._writes or not self._writer.may_try:
            return
        for uid, condition in self._changes.due(trio.current_time()):
            pod = self._keeper.pods.get(uid)
            if pod is None:
                continue
            body = pod_status_patch(uid, condition, pod.told, wall_clock())
            patch = self._client.patch(pod_status_path(pod.key), body, STRATEGIC_MERGE)
            if await self._writer.attempt(patch) is Outcome.LATER:
                self._changes.put_back(uid)
                return

    def _states(self, now: float) -> dict[str, PodState]:
        enrolled = {each.state.pod_uid: each for each in self._node.enroller.enrolled}
        cut_off = {each.state.pod_uid: each.error for each in self._node.enroller.cut_off}
        self._look_at_the_kernel(enrolled, now)
        return {
            uid: self._state(pod, enrolled.get(uid), cut_off.get(uid))
            for uid, pod in self._keeper.pods.items()
        }

    def _state(self, pod: NodePod, enrolled: Enrolled | None, cut_off: str | None) -> PodState:
        trouble = self._keeper.trouble.get(pod.uid) or cut_off
        if enrolled is None:
            return PodState(pod, trouble)
        _, fault = self._faults.get(pod.uid, (0.0, None))
        return PodState(pod, trouble, self._certificate(enrolled), fault)

    def _certificate(self, enrolled: Enrolled) -> CertificateFacts:
        status = self._node.credentials.status(enrolled.workload.key)
        if status is None:
            return CertificateFacts("missing")
        refusal = status.last_failure
        return CertificateFacts(
            certificate_state(status.svid, wall_clock()),
            status.last_error,
            refusal.code if isinstance(refusal, AuthorityRefusal) else None,
            revocation_of(enrolled),
        )

    def _look_at_the_kernel(self, enrolled: Mapping[str | None, Enrolled], now: float) -> None:
        """At some pods each time, the oldest news first; at one with a fault again at once, it may pass in a moment."""
        self._faults = {uid: known for uid, known in self._faults.items() if uid in enrolled}
        old = []
        for uid, each in enrolled.items():
            at, fault = self._faults.get(uid or "", (-FAULT_SECONDS, None))
            if uid is not None and (fault is not None or now >= at + FAULT_SECONDS):
                old.append((at, uid, each))
        for _, uid, each in sorted(old, key=itemgetter(0))[:FAULTS_A_LOOK]:
            self._faults[uid] = (now, capture_problem(self._node, each))
