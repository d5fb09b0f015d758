"""An agent that has handed its node over: it takes nothing new, and relays what is open, until that ends or its time is up.

It has no say any more in which workloads there are: it follows the state file, which its successor writes. Policies, trust
and revocations it goes on following by itself, so what it relays is judged as ever. Whenever it cannot know what it may
do, it ends: the connections are reset then.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from interceptor.agent.handover_wire import WireError
from interceptor.errors import StateError
from interceptor.policy.verdict import Reason

if TYPE_CHECKING:
    from interceptor.agent.handover_wire import Wire
    from interceptor.agent.members import Enrolled
    from interceptor.agent.node import Node
    from interceptor.agent.state import EnrolledState

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.2
MAX_TOLD: Final = 500  # workloads with open connections, of which a successor hears at once
ALONE_SECONDS: Final = 20.0


class Draining:
    """What is left of an agent."""

    def __init__(self, node: Node, wire: Wire) -> None:
        self._node = node
        self.wire = wire
        self._limit = node.config.limits.drain_time
        self._until = trio.current_time() + self._limit.total_seconds()
        self._ends_at = node.now() + self._limit
        self._has_successor = True
        self._end = trio.Event()
        self._may_leave = trio.Event()

    def need_not_stay(self) -> None:
        """End when nothing is open any more: the pod is being removed, and nobody starts it again."""
        self._may_leave.set()

    def end(self) -> None:
        """Do not wait any longer for anything."""
        self._end.set()
        self._may_leave.set()

    async def run(self) -> None:
        """Until nothing is open, the time is up, or nobody knows any more what may be relayed."""
        node = self._node
        log.info(
            "agent %d serves this node now; what is open here is relayed until %s at the latest",
            self.wire.pid,
            self._ends_at.isoformat(timespec="seconds"),
        )
        with trio.move_on_at(self._until):
            while not self._end.is_set() and await self._follow() and self.open_connections():
                await self._tell()
                with trio.move_on_after(POLL_SECONDS):
                    await self._end.wait()
        left = self.open_connections()
        for enrolled in node.enroller.enrolled:
            enrolled.proxy.stop(Reason.AGENT_STOPPING)
        log.info("drained, %d connections were reset" if left else "drained", *([left] if left else []))

    def open_connections(self) -> int:
        """How many are relayed still, also those of namespaces outside of the mesh that were held once."""
        node = self._node
        carried = node.cluster.carried if node.cluster is not None else 0
        return carried + sum(len(each.proxy.context.live) for each in node.enroller.enrolled)

    async def _follow(self) -> bool:
        """Do what the successor did to the workloads; whether what is left may be relayed."""
        node = self._node
        if (refusal := node.follower.refusal) is not None:
            log.error("the authority does not know this node any more: %s", refusal)
            return False
        try:
            states = {state.key: state for state in node.state_file.load()}
        except StateError as error:
            log.error("which workloads there are is not known any more: %s", error)  # noqa: TRY400
            return False
        is_changed = False
        for enrolled in node.enroller.enrolled:
            state = states.get(enrolled.workload.key)
            if state is None or state.reference.cookie != enrolled.cookie:
                node.enroller.let_go(enrolled)
            elif _differs(state, enrolled):
                node.enroller.become(enrolled, state)
                is_changed = True
        if is_changed:
            await node.policies.redecide()
        return True

    async def _tell(self) -> None:
        """Let the successor know how it stands; it may have ended meanwhile, which changes nothing here."""
        if not self._has_successor:
            return
        open_now = {
            str(each.workload.key): [len(live), live.bytes_carried]
            for each in self._node.enroller.enrolled
            if len(live := each.proxy.context.live)
        }
        told = dict(list(open_now.items())[:MAX_TOLD])
        draining = {"connections": self.open_connections(), "until": self._ends_at.isoformat(), "of": told}
        try:
            await self.wire.send({"draining": draining})
        except WireError:
            self._has_successor = False

    async def idle(self) -> None:
        """Stay, though nothing is left to do: in a cluster the pod would be started again, which is to be removed.

        Until told to end, or until nobody has the node: then the next start of this pod is to serve it.
        """
        alone_since = trio.current_time()
        while not self._may_leave.is_set() and trio.current_time() - alone_since < ALONE_SECONDS:
            with trio.move_on_after(1.0):
                await self._may_leave.wait()
            if self._node.is_node_taken():
                alone_since = trio.current_time()


def _differs(state: EnrolledState, enrolled: Enrolled) -> bool:
    workload = enrolled.workload
    return (state.labels, state.addresses) != (workload.labels, workload.addresses)
