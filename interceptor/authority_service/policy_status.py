"""Tells the cluster's API whether its policies can be enforced: a condition in the status of each, an Event for a bad one.

The replica of the authority that leads does it, for the whole cluster: one writer, and no agent needs the right. Agents
enforce with the same parser; what an agent of another version makes of a policy its own log says.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from interceptor.cluster.policy_object import API_VERSION
from interceptor.cluster_status.bodies import JSON_MERGE, policy_path, policy_status_patch
from interceptor.cluster_status.changes import Changes, Wanted
from interceptor.cluster_status.events import EventLog, Happening, Subject
from interceptor.cluster_status.policy_status import PLURALS, PolicyStates
from interceptor.cluster_status.token_bucket import TokenBucket
from interceptor.kubernetes.client import MAX_OBJECT_BYTES
from interceptor.kubernetes.cluster_watch import ClusterWatch
from interceptor.kubernetes.event_sender import EventSender
from interceptor.kubernetes.resource import POLICIES
from interceptor.kubernetes.status_writer import Outcome, StatusWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from interceptor.authority_service.leadership import Leadership
    from interceptor.cluster.head import ObjectKey
    from interceptor.cluster_status.policy_status import PolicyState
    from interceptor.kubernetes.client import ApiClient
    from interceptor.node_pods.policies import Parse

log = logging.getLogger(__name__)

CONTROLLER: Final = "interceptor.io/authority"
LOOK_SECONDS: Final = 1.0
SETTLE_SECONDS: Final = 1.0
CONDITIONS: Final = (50, 10.0)
EVENTS: Final = (25, 0.5)
INVALID: Final = "PolicyInvalid"
ACCEPTED: Final = "PolicyAccepted"
ACTION: Final = "Validate"


class PolicyStatus:
    """Owner of what the status of policies says, while its replica leads."""

    def __init__(
        self, client: ApiClient, leadership: Leadership, parse: Parse, me: str, now: Callable[[], datetime]
    ) -> None:
        self._client = client
        self._leadership = leadership
        self._parse = parse
        self._me = me
        self._now = now
        self._writer = StatusWriter("the policies' status")

    async def run(self, namespace: str) -> None:
        """Until cancelled; Events about too many policies at once are about this namespace, which is ours."""
        whole = Subject("v1", "Namespace", "", namespace, "")
        while True:
            if self._leadership.is_ours:
                async with trio.open_nursery() as nursery:
                    watch = ClusterWatch(self._client, POLICIES)
                    nursery.start_soon(watch.run)
                    await self._lead(watch, whole)
                    nursery.cancel_scope.cancel()
            await trio.sleep(LOOK_SECONDS)

    async def _lead(self, watch: ClusterWatch, whole: Subject) -> None:
        """As long as we lead; everything begins anew with the next time."""
        states = PolicyStates(self._parse)
        changes: Changes[tuple[str, ObjectKey]] = Changes(TokenBucket(*CONDITIONS), SETTLE_SECONDS)
        events = EventSender(
            self._client, EventLog(TokenBucket(*EVENTS), whole), CONTROLLER, self._me, self._now
        )
        while self._leadership.is_ours:
            try:
                found = await trio.to_thread.run_sync(states.of, watch.cluster)
                self._compare(found, changes, events.log)
                await self._write(found, changes)
                await events.send()
            except Exception:
                # A fault of ours, with these policies: certificates are issued all the same.
                log.exception("whether policies can be enforced could not be told")
            await trio.sleep(LOOK_SECONDS)

    def _compare(
        self,
        found: Mapping[tuple[str, ObjectKey], PolicyState],
        changes: Changes[tuple[str, ObjectKey]],
        events: EventLog,
    ) -> None:
        now = trio.current_time()
        changes.want(
            {name: Wanted(each.condition, each.told, each.generation) for name, each in found.items()}, now
        )
        for (sort, key), condition, _ in changes.news(now):
            state = found[sort, key]
            if condition.holds and state.told is None:
                continue  # that a policy is good is no news, unless it was not
            word = ACCEPTED if condition.holds else INVALID
            subject = Subject(API_VERSION, sort, key.namespace, key.name, state.head.uid)
            events.happened(Happening(subject, not condition.holds, word, ACTION), condition.message, now)

    async def _write(
        self,
        found: Mapping[tuple[str, ObjectKey], PolicyState],
        changes: Changes[tuple[str, ObjectKey]],
    ) -> None:
        if not self._writer.may_try:
            return
        for name, _ in changes.due(trio.current_time()):
            outcome = await self._writer.attempt(self._tell(found[name]))
            if outcome in (Outcome.LATER, Outcome.CONFLICT):
                changes.put_back(name)
            if outcome is Outcome.LATER or not self._leadership.is_ours:
                return

    async def _tell(self, state: PolicyState) -> None:
        path = policy_path(PLURALS[state.sort], state.head.key)
        answer = await self._client.get(path, {}, "application/json", MAX_OBJECT_BYTES)
        body = policy_status_patch(state, answer, self._now())
        if body is not None:
            await self._client.patch(f"{path}/status", body, JSON_MERGE)
