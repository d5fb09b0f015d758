"""Come after an agent that still serves: be ready for everything that it does, ask it for the node, and go on with that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from interceptor.agent.directories import Locks
from interceptor.agent.doors import Doors
from interceptor.agent.handover_wire import WireError
from interceptor.authority.refusal import OF_IDENTITY
from interceptor.errors import AuthorityRefusal, InterceptorError, StateError
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.workload import Workload

if TYPE_CHECKING:
    from interceptor.agent.node import Node
    from interceptor.agent.predecessor import Inheritance, Predecessor
    from interceptor.agent.state import EnrolledState

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 1.0
INFORMED_SECONDS: Final = 5.0
LOCK_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05


async def succeed(node: Node, predecessor: Predecessor) -> Inheritance:
    """Prepare, and take over what the other one has; it serves until we say that we do.

    Should it end meanwhile, whatever the reason, this is a start as after any agent that is gone. StateError when it goes
    on and does not hand over.
    """
    log.info("preparing to take over from agent %d", predecessor.pid)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at_end, predecessor, nursery.cancel_scope)
        await _prepare(node)
        nursery.cancel_scope.cancel()
    try:
        inherited = await predecessor.hand_over(node.config)
    except WireError as error:
        raise StateError(f"{error}; it goes on serving this node: start this agent again later") from error
    inherited.locks = inherited.locks or await _take_locks(node)
    inherited.doors = inherited.doors or await Doors.open(node.config)
    return inherited


async def _cancel_at_end(predecessor: Predecessor, scope: trio.CancelScope) -> None:
    """It says nothing until it is asked: whatever comes means that there is nobody to wait for."""
    await predecessor.wait_ended()
    log.warning("agent %d has ended before it handed over", predecessor.pid)
    scope.cancel()


async def _prepare(node: Node) -> None:
    """Until this agent could do for each workload what the other one does: decide, prove itself, find the others."""
    states = node.state_file.load()
    async with trio.open_nursery() as nursery:
        for state in states:
            nursery.start_soon(_obtain_certificate, node, state)
    if node.cluster is not None:
        await node.cluster.wait_until_known()
    while node.policy.value.pending:
        await node.policy.wait_changed()
    with trio.move_on_after(INFORMED_SECONDS):
        while not node.follower.is_informed:  # noqa: ASYNC110 - it is only of use here
            await trio.sleep(_POLL_SECONDS)


async def _obtain_certificate(node: Node, state: EnrolledState) -> None:
    identity = SpiffeId(node.config.trust_domain, state.key.namespace, state.service_account)
    workload = Workload(state.key, identity, state.addresses, node.config.node, state.labels)
    complaint = ""
    while True:
        try:
            await node.credentials.obtain(workload)
        except InterceptorError as error:
            if isinstance(error, AuthorityRefusal) and error.code in OF_IDENTITY:
                return  # with the other agent it cannot renew its own either
            if str(error) != complaint:
                log.warning("not taking over yet, there is no certificate for %s: %s", state.key, error)
            complaint = str(error)
            await trio.sleep(RETRY_SECONDS)
        else:
            return


async def _take_locks(node: Node) -> Locks:
    """Those of an agent that has died; its last process may be about to let go of them."""
    deadline = trio.current_time() + LOCK_SECONDS
    while True:
        try:
            return Locks.take(node.config)
        except StateError:
            if trio.current_time() > deadline:
                raise
        await trio.sleep(_POLL_SECONDS)
