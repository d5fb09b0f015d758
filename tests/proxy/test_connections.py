"""What is held for a connection from its first moment to its record's end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from interceptor.policy.verdict import Denial, Permit, Reason, Transport
from interceptor.proxy.connections import HandshakeLimit, LiveConnections
from interceptor.proxy.refusal import Refusal
from interceptor.telemetry.connection_record import ClosedBy, CloseKind, ConnectionRecord
from interceptor.workload import Direction, WorkloadKey
from tests.proxy.mesh import Recorder


def new_record() -> ConnectionRecord:
    return ConnectionRecord(Direction.OUTBOUND, "1", "2", None, None, 0.0, trio.current_time())


def live(limit: int = 10) -> tuple[LiveConnections, Recorder]:
    recorder = Recorder()
    return LiveConnections(WorkloadKey("default", "a"), limit, recorder), recorder


async def test_connection_that_ends_by_itself_keeps_its_verdict_and_end() -> None:
    connections, recorder = live()
    record = new_record()
    with connections.track(record):
        assert (len(connections), connections.records) == (1, (record,))
        record.decide(Permit(Transport.MUTUAL_TLS))
        record.closed_by, record.close_kind = ClosedBy.SOURCE, CloseKind.FIN
    assert len(connections) == 0
    assert recorder.closed_records == [record]
    assert (record.verdict, record.reason) == ("permit", None)
    assert (record.closed_by, record.close_kind) == (ClosedBy.SOURCE, CloseKind.FIN)


async def test_refusal_becomes_a_denial() -> None:
    connections, recorder = live()
    record = new_record()
    with connections.track(record):
        record.decide(Permit(Transport.MUTUAL_TLS))
        raise Refusal(Reason.DESTINATION_REFUSED, "x refused")
    assert recorder.closed_records == [record]
    assert (record.verdict, record.reason, record.detail) == (
        "denial",
        Reason.DESTINATION_REFUSED,
        "x refused",
    )
    assert (record.closed_by, record.close_kind) == (ClosedBy.INTERCEPTOR, CloseKind.RESET)


async def test_fault_is_handed_on_and_the_record_finished() -> None:
    connections, recorder = live()
    with pytest.raises(ZeroDivisionError), connections.track(new_record()):
        raise ZeroDivisionError
    assert len(recorder.closed_records) == 1
    assert len(connections) == 0


async def test_one_more_than_the_limit_is_refused() -> None:
    connections, recorder = live(1)
    with connections.track(new_record()):
        with pytest.raises(Refusal, match="the limit is 1"), connections.track(new_record()):
            pytest.fail("there is no place")
        assert len(connections) == 1
    assert [record.reason for record in recorder.closed_records] == [Reason.TOO_MANY_CONNECTIONS, None]


async def test_close_all_ends_those_that_are_open_and_refuses_those_that_come(nursery: trio.Nursery) -> None:
    connections, recorder = live()

    async def hold() -> None:
        record = new_record()
        with connections.track(record):
            record.decide(Permit(Transport.MUTUAL_TLS))
            await trio.sleep_forever()

    for _ in range(3):
        nursery.start_soon(hold)
    await trio.testing.wait_all_tasks_blocked()
    connections.close_all(Reason.WITHDRAWN)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(Refusal), connections.track(new_record()):
        pytest.fail("it is closed")
    assert [(record.verdict, record.reason) for record in recorder.closed_records] == [
        ("denial", Reason.WITHDRAWN)
    ] * 4


async def test_connection_that_had_ended_when_all_are_closed_is_no_denial() -> None:
    connections, _ = live()
    record = new_record()
    with connections.track(record):
        record.decide(Permit(Transport.MUTUAL_TLS))
        record.closed_by, record.close_kind = ClosedBy.SOURCE, CloseKind.FIN
        connections.close_all(Reason.WITHDRAWN)  # and nothing more is waited for
    assert (record.verdict, record.closed_by) == ("permit", ClosedBy.SOURCE)


async def test_connections_that_end_with_the_agent_say_so(nursery: trio.Nursery) -> None:
    connections, recorder = live()
    with trio.CancelScope() as agent, connections.track(new_record()):
        agent.cancel()
        async with trio.open_nursery() as inner:  # as the relay does
            inner.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert [record.reason for record in recorder.closed_records] == [Reason.AGENT_STOPPING]


def test_handshake_limit_frees_its_places() -> None:
    limit = HandshakeLimit(1)
    for _ in range(2):
        with limit.one(), pytest.raises(Refusal, match="1 handshakes are under way"), limit.one():
            pass
    with pytest.raises(ZeroDivisionError), limit.one():
        raise ZeroDivisionError
    with limit.one():
        pass


async def test_connection_denied_later_is_reset_with_its_own_reason_and_the_others_go_on(
    nursery: trio.Nursery,
) -> None:
    connections, recorder = live()
    records = [new_record() for _ in range(3)]

    async def hold(record: ConnectionRecord) -> None:
        with connections.track(record):
            record.decide(Permit(Transport.MUTUAL_TLS))
            await trio.sleep_forever()

    for record in records:
        nursery.start_soon(hold, record)
    await trio.testing.wait_all_tasks_blocked()
    denial = Denial(Reason.PEER_UNTRUSTED, "its root is gone")
    assert connections.close_denied(lambda record: denial if record is records[1] else None) == 1
    await trio.testing.wait_all_tasks_blocked()
    assert recorder.closed_records == [records[1]]
    assert (records[1].verdict, records[1].reason, records[1].detail) == (
        "denial",
        Reason.PEER_UNTRUSTED,
        "its root is gone",
    )
    assert (records[1].closed_by, records[1].close_kind) == (ClosedBy.INTERCEPTOR, CloseKind.RESET)
    assert set(connections.records) == {records[0], records[2]}
    connections.close_all(Reason.WITHDRAWN)
    await trio.testing.wait_all_tasks_blocked()
    assert {record.reason for record in recorder.closed_records} == {Reason.PEER_UNTRUSTED, Reason.WITHDRAWN}


async def test_connection_denied_twice_keeps_the_first_reason(nursery: trio.Nursery) -> None:
    connections, recorder = live()
    record = new_record()

    async def hold() -> None:
        with connections.track(record):
            await trio.sleep_forever()

    nursery.start_soon(hold)
    await trio.testing.wait_all_tasks_blocked()
    for reason in (Reason.PEER_UNTRUSTED, Reason.IDENTITY_MISMATCH):
        connections.close_denied(lambda _, reason=reason: Denial(reason))
    connections.close_all(Reason.WITHDRAWN)
    await trio.testing.wait_all_tasks_blocked()
    assert [found.reason for found in recorder.closed_records] == [Reason.PEER_UNTRUSTED]
