"""Carry bytes both ways until both directions ended, exactly as they came: half-close, reset, order.

Each direction has its own buffer: small until a read fills it, then large, so
that an idle connection costs little and a bulk one few system calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from interceptor.telemetry.connection_record import ClosedBy, CloseKind
from interceptor.transport.streams import StreamBroken

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.transport.streams import ByteStream

SMALL_BUFFER_BYTES = 16 * 1024  # one TLS record
LARGE_BUFFER_BYTES = 256 * 1024
# A flow that never blocks lets the others run, and can be cancelled, this often.
YIELD_AFTER_BYTES = 1024 * 1024
# The other direction mostly ends at once too: only one that does not is worth a descriptor to watch for a reset.
HALF_CLOSED_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _End:
    side: ClosedBy
    stream: ByteStream


class Relay:
    """One connection's two directions, and how it ended: `closed_by` first, by `close_kind`."""

    def __init__(self, source: ByteStream, destination: ByteStream, record: ConnectionRecord) -> None:
        self._source = _End(ClosedBy.SOURCE, source)
        self._destination = _End(ClosedBy.DESTINATION, destination)
        self._record = record
        self.closed_by: ClosedBy | None = None
        self.close_kind = CloseKind.FIN
        self._open_directions = 2

    async def run(self) -> None:
        """Until both directions ended or one side was reset; closes both sides alike."""
        try:
            async with trio.open_nursery() as nursery:
                scope = nursery.cancel_scope
                nursery.start_soon(self._carry, self._destination, self._source, self._count_received, scope)
                await self._carry(self._source, self._destination, self._count_sent, scope)
        except BaseException:
            self._abort()
            raise
        if self.close_kind is CloseKind.RESET:
            self._abort()
        else:
            self._source.stream.close()
            self._destination.stream.close()

    async def _carry(
        self, origin: _End, target: _End, count: Callable[[int], None], scope: trio.CancelScope
    ) -> None:
        working = origin
        try:
            buffer = memoryview(bytearray(SMALL_BUFFER_BYTES))
            since_yield = 0
            while received := await origin.stream.receive_into(buffer):
                working = target
                await target.stream.send_all(buffer[:received])
                working = origin
                count(received)
                since_yield += received
                if received == len(buffer) < LARGE_BUFFER_BYTES:
                    buffer = memoryview(bytearray(LARGE_BUFFER_BYTES))
                if since_yield >= YIELD_AFTER_BYTES:
                    since_yield = 0
                    await trio.lowlevel.checkpoint()
            self.closed_by = self.closed_by or origin.side
            working = target
            await target.stream.finish_sending()
            self._open_directions -= 1
            if not self._open_directions:
                scope.cancel()
                return
            working = origin
            await trio.sleep(HALF_CLOSED_SECONDS)
            await origin.stream.wait_reset()
        except StreamBroken:
            self.closed_by = working.side
            self.close_kind = CloseKind.RESET
            scope.cancel()

    def _count_sent(self, count: int) -> None:
        self._record.bytes_sent += count

    def _count_received(self, count: int) -> None:
        self._record.bytes_received += count

    def _abort(self) -> None:
        self._source.stream.abort()
        self._destination.stream.abort()
