"""The agent that serves this node, as its successor sees it: met, asked for the node, and followed until it has ended."""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from interceptor import __version__
from interceptor.agent.directories import Locks, identities
from interceptor.agent.doors import Doors
from interceptor.agent.handover_wire import (
    INSTANCE_VARIABLE,
    PROTOCOL,
    SOCKET_NAME,
    Wire,
    WireError,
    connect,
)
from interceptor.errors import StateError
from interceptor.kernel.abi import ABI_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.agent.handover_wire import Message
    from interceptor.config import Config

GREETING_SECONDS: Final = 10.0  # whoever is asked answers at once, unless it hangs
GIVING_SECONDS: Final = 30.0  # what it gives, it has
CONFIRMING_SECONDS: Final = 90.0  # longer than it waits for us, so that it decides
ENDING_SECONDS: Final = 2.0
WAIT_SECONDS: Final = 120.0  # for one that starts still, or is about to end
_POLL_SECONDS: Final = 0.2


class NotYetError(StateError):
    """There is nobody to take over from yet: it may be different in a moment."""


@dataclass(slots=True)
class Inheritance:
    """What an agent got of the one before; what nobody wants of it is to be closed.

    listeners   by netns cookie, those of its workloads
    draining    earlier agents that still relay something
    """

    locks: Locks | None = None
    doors: Doors | None = None
    listeners: dict[int, list[socket.socket]] = field(default_factory=dict)
    draining: list[Wire] = field(default_factory=list)

    def close_listeners(self) -> None:
        """Those of workloads that have gone meanwhile."""
        for sockets in self.listeners.values():
            for sock in sockets:
                sock.close()
        self.listeners.clear()


class Predecessor:
    """An agent that has agreed to hand over to us, and to nobody else meanwhile."""

    def __init__(self, wire: Wire, greeting: Message) -> None:
        self.wire = wire
        self.pid = wire.pid
        self.lent = greeting.fds  # descriptors of its LENT_MAPS
        # Of the pods, if they are, of it and of those before it.
        self.instances = frozenset(str(each) for each in greeting.content.get("instances", ()) if each)

    async def wait_ended(self) -> None:
        """Until it is gone, or will not hand over: before it is asked, it says nothing."""
        with suppress(WireError):
            (await self.wire.receive()).close_descriptors()

    async def hand_over(self, config: Config) -> Inheritance:
        """Ask for the node.  What came before it died is returned as well: it is of use all the same."""
        inherited = Inheritance()
        try:
            await self.wire.send({"want": "hand over"})
            while True:
                message = await self.wire.receive(GIVING_SECONDS)
                if message.content.get("give") == "done":
                    return inherited
                await _put(message, inherited, config)
        except WireError:
            if not await self._has_ended():
                raise  # it is there, and goes on serving
        return inherited

    async def confirm(self) -> bool:
        """Say that we serve; whether the node is ours now.  It is not if the other one goes on, having waited too long."""
        try:
            await self.wire.send({"now": "serving"})
            answer = await self.wire.receive(CONFIRMING_SECONDS)
        except WireError:
            return await self._has_ended()
        return answer.content.get("now") == "yours"

    async def _has_ended(self) -> bool:
        """Whether its process is gone; one that was killed lets go of the wire first, and of its life then."""
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return True
        try:
            with trio.move_on_after(ENDING_SECONDS):
                await trio.lowlevel.wait_readable(fd)
            return bool(select.select([fd], [], [], 0)[0])
        finally:
            os.close(fd)

    def release(self) -> None:
        """Let it go on as if nobody had asked; no error when it has handed over."""
        self.wire.close()
        for fd in self.lent:
            with suppress(OSError):
                os.close(fd)
        self.lent = ()


async def meet(config: Config) -> Predecessor:
    """Find the agent that has this node's directories, and agree with it that it hands over to us.

    NotYetError when it is starting, ending, or another one than we are told to follow; StateError when it hangs (it may wake
    up again, so nothing may be taken from it), when another one is before us, or when it is of another kind.
    """
    wire = connect(config.paths.run_dir / SOCKET_NAME)
    if wire is None:
        raise NotYetError("no agent hands over yet")
    try:
        await wire.send(
            {
                "protocol": PROTOCOL,
                "abi": ABI_VERSION,
                "version": __version__,
                "pid": os.getpid(),
                "instance": os.environ.get(INSTANCE_VARIABLE, ""),
                "directories": identities(config),
            }
        )
        answer = await _answer_of(wire)
        _require_agreement(answer)
    except BaseException:
        wire.close()
        raise
    return Predecessor(wire, answer)


def _require_agreement(answer: Message) -> None:
    if (refusal := answer.content.get("refused")) is not None:
        answer.close_descriptors()
        raise (NotYetError if answer.content.get("again") else StateError)(str(refusal))


async def _answer_of(wire: Wire) -> Message:
    with trio.move_on_after(GREETING_SECONDS):
        try:
            return await wire.receive()
        except WireError as error:
            raise NotYetError(str(error)) from error
    raise StateError(
        f"agent {wire.pid} has this node and does not answer: it hangs, or was stopped, and may go on at any moment, so "
        f"nothing is taken over from it; end it ('kill -9 {wire.pid}'; its connections are reset, nothing passes in "
        "plaintext), and start this one again"
    )


def take_or_meet(config: Config, progress: Callable[[str], None]) -> Locks | Predecessor:
    """The locks if nobody has them, or else the agent that has them and hands over; StateError when neither can be had."""
    deadline, told = time.monotonic() + WAIT_SECONDS, ""
    while True:
        try:
            return Locks.take(config)
        except StateError as error:
            taken = error
        try:
            return trio.run(meet, config)
        except NotYetError as error:
            if time.monotonic() > deadline:
                raise StateError(f"{taken} ({error})") from error
            if str(error) != told:
                progress(f"waiting for the agent that has this node: {error}")
                told = str(error)
        time.sleep(_POLL_SECONDS)


async def _put(message: Message, inherited: Inheritance, config: Config) -> None:
    """Keep what a message gives; StateError when it is not what it says."""
    match message.content.get("give"):
        case "locks":
            inherited.locks = Locks.adopt(config, message.fds)
        case "doors":
            inherited.doors = await Doors.adopt(config, message.fds)
        case "listeners":
            cookie = int(message.content["cookie"])
            inherited.listeners[cookie] = [socket.socket(fileno=fd) for fd in message.fds]
        case "draining":
            inherited.draining += [Wire(socket.socket(fileno=fd)) for fd in message.fds]
        case _:
            message.close_descriptors()
