"""Whoever is to come after this agent: asks for the node, is given it, and confirms that it serves; or does not."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final

import trio

from interceptor import __version__
from interceptor.agent.directories import identities
from interceptor.agent.handover_wire import (
    INSTANCE_VARIABLE,
    MAX_DESCRIPTORS,
    PROTOCOL,
    Wire,
    WireError,
)
from interceptor.errors import StateError
from interceptor.kernel.abi import ABI_VERSION
from interceptor.kernel.bpf_program import LENT_MAPS
from interceptor.kernel.pinned import return_lent
from interceptor.transport.sockets import accept_until_closed

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from interceptor.agent.node import Node

log = logging.getLogger(__name__)

GREETING_SECONDS: Final = 10.0
LOCK_SECONDS: Final = 20.0  # for what changes a workload at this moment; the successor waits a little longer
SERVING_SECONDS: Final = 60.0  # until it has taken over every workload
MAX_ASKING: Final = 8
MAX_INSTANCES: Final = 16


class Succession:
    """Agrees with one successor at a time, and gives it the node when it is ready.

    successor   the pid of the agent that prepares to take over, None when there is none
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._places = trio.CapacityLimiter(MAX_ASKING)
        self.successor: int | None = None
        self.came_after: frozenset[str] = (
            frozenset()
        )  # instances that handed over: none of them may take it back

    async def serve(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        """Until the listener is closed; conversations go on in `nursery`."""
        await accept_until_closed(listener, lambda sock: nursery.start_soon(self._converse, sock))

    async def _converse(self, sock: socket.socket) -> None:
        try:
            wire = Wire(sock)
        except StateError as error:
            log.warning("%s", error)
            return
        try:
            async with self._places:
                await self._attend(wire)
        except WireError as error:
            log.info("a successor gave up: %s", error)
        except Exception:
            # A fault of ours with this successor: the node goes on being served.
            log.exception("a hand-over failed")
        finally:
            if self._node.draining is None or self._node.draining.wire is not wire:
                wire.close()

    async def _attend(self, wire: Wire) -> None:
        greeting = await wire.receive(GREETING_SECONDS)
        greeting.close_descriptors()
        refusal = self._refusal_of(greeting.content)
        if refusal is not None:
            await wire.send(refusal)
            return
        self.successor = wire.pid
        try:
            maps = [self._node.programs.maps[name] for name in LENT_MAPS]
            instances = sorted({os.environ.get(INSTANCE_VARIABLE, ""), *self.came_after})[-MAX_INSTANCES:]
            await wire.send({"version": __version__, "instances": instances}, maps)
            log.info("agent %d prepares to take this node over", wire.pid)
            await wire.receive()  # as long as its preparation takes: if it dies, we hear of it
            await self._hand_over(wire)
        finally:
            self.successor = None
            return_lent(self._node.config.paths.bpf_dir)

    def _refusal_of(self, greeting: Mapping[str, Any]) -> dict[str, object] | None:
        """Why an agent may not take over (now); None when it may."""
        node = self._node
        if (greeting.get("protocol"), greeting.get("abi")) != (PROTOCOL, ABI_VERSION):
            return _no(
                f"agent {os.getpid()} is of version {__version__}, and hands over only to agents that speak its protocol: "
                "stop it and start this one, its workloads stay captured meanwhile"
            )
        if greeting.get("directories") != identities(node.config):
            return _no(
                f"agent {os.getpid()} uses only some of the directories of this configuration: give this agent its own "
                "paths.state, paths.run and paths.bpf, or the same three as that one"
            )
        if self.successor is not None:
            return _no(
                f"agent {self.successor} is about to take over from agent {os.getpid()} already: wait for it, or end it"
            )
        if not node.ready.is_set():
            return _no(f"agent {os.getpid()} is starting still", again=True)
        if node.is_stopping:
            return _no(f"agent {os.getpid()} is about to end", again=True)
        if str(greeting.get("instance", "")) in self.came_after:
            return _no(f"agent {os.getpid()} came after this pod, which is to end", again=True)
        return None

    async def _hand_over(self, wire: Wire) -> None:
        node = self._node
        with trio.move_on_after(LOCK_SECONDS):
            await node.enroller.lock.acquire()
        if node.enroller.lock.statistics().owner is not trio.lowlevel.current_task():
            raise WireError("a workload is being changed for too long: the hand-over is given up")
        try:
            # From here on nothing changes which workloads there are; both agents serve them, from the same listeners.
            await self._give(wire)
            await self._wait_until_it_serves(wire)
        except WireError:
            # It may have switched some programs to its own, which nobody would keep up to date.
            node.take_back()
            node.enroller.lock.release()
            raise
        await node.retire(wire)

    @staticmethod
    async def _wait_until_it_serves(wire: Wire) -> None:
        answer = await wire.receive(SERVING_SECONDS)
        answer.close_descriptors()
        if answer.content.get("now") != "serving":
            raise WireError(f"agent {wire.pid} does not say that it serves")
        await wire.send({"now": "yours"})

    async def _give(self, wire: Wire) -> None:
        node = self._node
        node.records.save()
        await wire.send({"give": "locks"}, node.locks.fds)
        assert node.doors is not None, "who is asked has doors"
        await wire.send({"give": "doors"}, node.doors.fds)
        for enrolled in node.enroller.enrolled:
            listeners = [sock.fileno() for sock in enrolled.proxy.listeners]
            assert len(listeners) <= MAX_DESCRIPTORS
            await wire.send({"give": "listeners", "cookie": enrolled.cookie}, listeners)
        for earlier in node.predecessors.wires:
            await wire.send({"give": "draining"}, [earlier.fd])
        await wire.send({"give": "done"})


def _no(why: str, *, again: bool = False) -> dict[str, object]:
    return {"refused": why, "again": again}
