"""Carry on, as it is, a connection that was held in a network namespace which turned out to be outside of the mesh.

Its bytes were never the mesh's to protect: it would have gone the same way by itself, had the namespace been known.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from interceptor.policy.verdict import Permit, Transport
from interceptor.proxy import dial
from interceptor.proxy.recording import begin_record
from interceptor.proxy.refusal import Refusal
from interceptor.proxy.relay import Relay
from interceptor.transport.sockets import tune
from interceptor.transport.streams import PlainStream, abort_socket
from interceptor.workload import Direction

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.workload import Endpoint

log = logging.getLogger(__name__)

HELD_OUTSIDE: Final = Permit(Transport.PLAINTEXT, note="held before its namespace was known to be outside")


@dataclass(frozen=True, slots=True)
class Outlet:
    """The way out of one namespace that is outside of the mesh."""

    open_socket: Callable[[int], socket.socket]  # (family): a non-blocking TCP socket in that namespace
    original_destination: Callable[[socket.socket], Endpoint | None]
    connect_timeout: float  # seconds


async def handle(application: socket.socket, outlet: Outlet) -> None:
    """Carry one connection to where the application meant to connect, or reset it. Takes the socket over."""
    record = _record()
    with ExitStack() as cleanup:
        cleanup.callback(abort_socket, application)  # harmless once it is closed
        destination = outlet.original_destination(application)
        if destination is None:
            log.info(
                "a connection that was held could not be carried on: nobody knows where it was meant to go"
            )
            return
        try:
            upstream = dial.open_socket(outlet.open_socket, destination.address)
            cleanup.callback(abort_socket, upstream)
            await dial.connect(upstream, destination, outlet.connect_timeout)
        except Refusal as refusal:
            log.info("a connection that was held could not be carried on: %s", refusal)
            return
        tune(application)
        await Relay(PlainStream(application), PlainStream(upstream), record).run()


def _record() -> ConnectionRecord:
    """What the relay counts into; it is nobody's: the mesh keeps records of its workloads only."""
    record = begin_record(Direction.OUTBOUND)
    record.decide(HELD_OUTSIDE)
    return record
