"""Live connections of a node: counted, listed, and closed when they are no longer allowed."""

from __future__ import annotations

from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

import trio

from interceptor.policy.verdict import Denial, Reason
from interceptor.proxy.refusal import Refusal
from interceptor.telemetry.connection_record import ClosedBy, CloseKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from interceptor.proxy.recording import Recorder
    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.workload import WorkloadKey


class LiveConnections:
    """One workload's connections; the number of them is bounded."""

    def __init__(self, key: WorkloadKey, limit: int, recorder: Recorder) -> None:
        self.key = key
        self._limit = limit
        self._recorder = recorder
        self._live: dict[ConnectionRecord, trio.CancelScope] = {}
        self._closing: Reason | None = None
        self._late: dict[ConnectionRecord, Denial] = {}

    def __len__(self) -> int:
        return len(self._live)

    @property
    def records(self) -> tuple[ConnectionRecord, ...]:
        """The records of the connections that are open now."""
        return tuple(self._live)

    @property
    def bytes_carried(self) -> int:
        """What the open connections have carried so far, both ways."""
        return sum(record.bytes_sent + record.bytes_received for record in self._live)

    @contextmanager
    def track(self, record: ConnectionRecord) -> Iterator[None]:
        """Hold a connection from before its first decision until its record is finished.

        Refusal inside means: not carried, or no longer.  When there is no place, the
        body is not run, and the Refusal goes to the caller's caller.  The record is
        finished exactly once, whatever happens inside.
        """
        with trio.CancelScope() as scope:
            self._live[record] = scope
            has_place = False
            try:
                self._require_place()
                has_place = True
                yield
            except Refusal as refusal:
                record.decide(refusal.denial)
                if not has_place:
                    raise
            except BaseException:
                # Not `scope`'s own: the tasks around it are cancelled when the agent stops.
                if trio.current_effective_deadline() == -inf:
                    record.decide(self._late.get(record) or Denial(self._closing or Reason.AGENT_STOPPING))
                raise
            finally:
                del self._live[record]
                self._late.pop(record, None)
                if record.closed_by is None:
                    record.closed_by = ClosedBy.INTERCEPTOR
                    record.close_kind = CloseKind.RESET
                record.finish(trio.current_time(), record.closed_by, record.close_kind or CloseKind.RESET)
                self._recorder.closed(record)

    def is_denied(self, record: ConnectionRecord) -> bool:
        """Whether `close_denied` has cancelled what carries this connection."""
        return record in self._late

    def _require_place(self) -> None:
        if self._closing is not None:
            raise Refusal(self._closing)
        if len(self._live) > self._limit:
            raise Refusal(Reason.TOO_MANY_CONNECTIONS, f"the limit is {self._limit}")

    def close_all(self, reason: Reason) -> None:
        """Reset every connection, and refuse those that come, for one reason."""
        self._closing = reason
        for scope in self._live.values():
            scope.cancel()

    def close_denied(
        self,
        judge: Callable[[ConnectionRecord], Denial | None],
        among: Iterable[ConnectionRecord] | None = None,
    ) -> int:
        """Reset every connection that `judge` denies now, and no other; returns how many.

        `among` says which to look at; None means all of them.

        Of one that is not established yet, the record may lack what it is judged by: it is judged again by whoever
        establishes it.
        """
        live = self._live if among is None else [record for record in among if record in self._live]
        denied = {record: denial for record in live if (denial := judge(record)) is not None}
        for record, denial in denied.items():
            self._late.setdefault(record, denial)
            self._live[record].cancel()
        return len(denied)


class HandshakeLimit:
    """Bounds how many peers may be in the middle of a handshake with one workload: they are not known yet."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place during one handshake; Refusal when all are taken."""
        if self._pending >= self._limit:
            raise Refusal(Reason.TOO_MANY_CONNECTIONS, f"{self._limit} handshakes are under way")
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1
