"""A connection's record: begun here, and told to whoever keeps records."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol

import trio

from interceptor.telemetry.connection_record import ConnectionRecord

if TYPE_CHECKING:
    from interceptor.telemetry.metrics import HandshakeSide
    from interceptor.workload import Direction


class Recorder(Protocol):
    """Where records go; none of it blocks."""

    def opened(self, record: ConnectionRecord) -> None: ...

    def closed(self, record: ConnectionRecord) -> None: ...

    def handshake(self, side: HandshakeSide, seconds: float) -> None: ...


def begin_record(direction: Direction) -> ConnectionRecord:
    """A record of a connection that begins now, with numbers of its own."""
    return ConnectionRecord(
        direction=direction,
        id=os.urandom(8).hex(),
        trace_id=os.urandom(16).hex(),
        source=None,
        destination=None,
        opened_at=time.time(),
        opened_monotonic=trio.current_time(),
    )
