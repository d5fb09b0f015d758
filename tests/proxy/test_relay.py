"""Both ends of a tunnel at work: every byte, in order, and each kind of end carried to the other side as it was."""

from __future__ import annotations

import hashlib
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from interceptor.policy.verdict import Reason
from interceptor.telemetry.connection_record import ClosedBy, CloseKind
from interceptor.transport.streams import StreamBroken
from tests.proxy.certificates import Proof, svid, tls_context
from tests.proxy.mesh import DEADLINE_SECONDS, Mesh, echo, is_reset, receive_all, reset, serve_application
from tests.proxy.peers import receive_some, request, send, tunnel_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from OpenSSL import SSL

BULK_BYTES = 64 * 1024 * 1024
BLOCK = random.Random(1).randbytes(1 << 20)


class Ends:
    """The two applications of one carried connection."""

    def __init__(self, mesh: Mesh, client: trio.SocketStream, server: trio.SocketStream) -> None:
        self.mesh, self.client, self.server = mesh, client, server

    async def assert_ended(self, closed_by: ClosedBy, kind: CloseKind, sent: int, received: int) -> None:
        """Both records say the same, and nothing is left."""
        for record in await self.mesh.records():
            assert (record.closed_by, record.close_kind) == (closed_by, kind)
            assert (record.bytes_sent, record.bytes_received) == (sent, received)
            assert (record.verdict, record.reason) == ("permit", None)
        assert len(self.mesh.source.context.live) == len(self.mesh.destination.context.live) == 0


@pytest.fixture
async def ends(running: Mesh, nursery: trio.Nursery) -> AsyncIterator[Ends]:
    send_server, receive_server = trio.open_memory_channel[trio.SocketStream](1)

    async def application(stream: trio.SocketStream) -> None:
        await send_server.send(stream)
        await trio.sleep_forever()

    running.aim = await serve_application(nursery, application)
    async with await running.connect() as client, await receive_server.receive() as server:
        await running.source.recorder.wait_opened()
        yield Ends(running, client, server)


async def test_source_that_ends_first_can_still_receive(ends: Ends) -> None:
    await ends.client.send_all(b"question")
    await ends.client.send_eof()
    assert await receive_all(ends.server) == b"question"
    await ends.server.send_all(b"answer")
    await ends.server.send_eof()
    assert await receive_all(ends.client) == b"answer"
    await ends.assert_ended(ClosedBy.SOURCE, CloseKind.FIN, 8, 6)


async def test_destination_that_ends_first_can_still_receive(ends: Ends) -> None:
    await ends.server.send_all(b"banner")
    await ends.server.send_eof()
    assert await receive_all(ends.client) == b"banner"
    await ends.client.send_all(b"late")
    await ends.client.send_eof()
    assert await receive_all(ends.server) == b"late"
    await ends.assert_ended(ClosedBy.DESTINATION, CloseKind.FIN, 4, 6)


async def test_reset_by_the_source_reaches_the_destination(ends: Ends) -> None:
    await ends.client.send_all(b"x")
    assert await ends.server.receive_some(1) == b"x"
    reset(ends.client)
    assert await is_reset(ends.server)
    await ends.assert_ended(ClosedBy.SOURCE, CloseKind.RESET, 1, 0)


async def test_reset_by_the_destination_reaches_the_source(ends: Ends) -> None:
    await ends.server.send_all(b"x")
    assert await ends.client.receive_some(1) == b"x"
    reset(ends.server)
    assert await is_reset(ends.client)
    await ends.assert_ended(ClosedBy.DESTINATION, CloseKind.RESET, 0, 1)


@pytest.mark.parametrize("first", ["client", "server"])
async def test_reset_after_half_close_is_a_reset(ends: Ends, first: str) -> None:
    one, other = (ends.client, ends.server) if first == "client" else (ends.server, ends.client)
    await one.send_eof()
    assert await receive_all(other) == b""
    reset(other)
    assert await is_reset(one)
    for record in await ends.mesh.records():
        assert record.close_kind is CloseKind.RESET


@pytest.mark.parametrize("first", ["client", "server"])
async def test_reset_by_the_side_that_has_ended_its_sending_is_a_reset(ends: Ends, first: str) -> None:
    one, other = (ends.client, ends.server) if first == "client" else (ends.server, ends.client)
    await one.send_eof()
    assert await receive_all(other) == b""
    reset(one)
    for record in await ends.mesh.records():
        assert (record.closed_by.value, record.close_kind) == (
            "source" if first == "client" else "destination",
            CloseKind.RESET,
        )
    with pytest.raises(trio.BrokenResourceError):
        await other.send_all(b"to nobody")


async def test_both_that_end_at_once_end_cleanly(ends: Ends) -> None:
    await ends.client.send_eof()
    await ends.server.send_eof()
    assert await receive_all(ends.client) == await receive_all(ends.server) == b""
    for record in await ends.mesh.records():
        assert (record.verdict, record.close_kind) == ("permit", CloseKind.FIN)


async def test_withdrawal_resets_both_ends(ends: Ends) -> None:
    ends.mesh.source.context.live.close_all(Reason.WITHDRAWN)
    assert await is_reset(ends.client)
    assert await is_reset(ends.server)
    ours, theirs = await ends.mesh.records()
    assert (ours.verdict, ours.reason, ours.closed_by) == ("denial", Reason.WITHDRAWN, ClosedBy.INTERCEPTOR)
    assert (theirs.verdict, theirs.closed_by, theirs.close_kind) == (
        "permit",
        ClosedBy.SOURCE,
        CloseKind.RESET,
    )


async def test_withdrawal_amid_a_bulk_transfer_resets_both_ends(ends: Ends, nursery: trio.Nursery) -> None:
    async def pump() -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                await ends.client.send_all(BLOCK)

    nursery.start_soon(pump)
    for _ in range(10):
        await ends.server.receive_some(1 << 18)
    ends.mesh.destination.context.live.close_all(Reason.WITHDRAWN)
    assert await is_reset(ends.server)
    ours, theirs = await ends.mesh.records()
    assert (theirs.verdict, theirs.reason) == ("denial", Reason.WITHDRAWN)
    assert (ours.verdict, ours.closed_by) == ("permit", ClosedBy.DESTINATION)


async def test_reader_that_pauses_stops_the_sender_and_loses_nothing(ends: Ends) -> None:
    """What is under way is bounded: by socket buffers and one buffer for each direction of each relay."""
    sent = 0
    with trio.move_on_after(0.5):
        while True:
            sent += await ends.client.socket.send(BLOCK)
    buffers = [record.bytes_sent for record in ends.mesh.source.recorder.opened_records]
    assert sent < 64 << 20
    assert buffers[0] <= sent
    await ends.client.send_eof()
    received = await receive_all(ends.server)
    assert len(received) == sent


@pytest.mark.parametrize("direction", ["to the destination", "to the source", "both ways"])
async def test_bulk_arrives_whole_in_pieces_of_any_size(ends: Ends, direction: str) -> None:
    sizes = random.Random(2)
    blocks = BULK_BYTES // len(BLOCK) // (2 if direction == "both ways" else 1)
    wanted = hashlib.sha256(BLOCK * blocks).hexdigest()

    async def write(stream: trio.SocketStream) -> None:
        view, total = memoryview(BLOCK * 2), 0
        while total < blocks * len(BLOCK):
            start = total % len(BLOCK)
            size = min(sizes.choice((1, 100, 16384, 16385, 300_000)), blocks * len(BLOCK) - total)
            if sizes.random() < 0.7:
                size = min(len(BLOCK), blocks * len(BLOCK) - total)
            await stream.send_all(view[start : start + size])
            total += size
        await stream.send_eof()

    async def read(stream: trio.SocketStream) -> None:
        digest = hashlib.sha256()
        while data := await stream.receive_some(sizes.choice((7, 1000, 65536, 1 << 20))):
            digest.update(data)
        assert digest.hexdigest() == wanted

    with trio.fail_after(30):
        async with trio.open_nursery() as both:
            for one, other in ((ends.client, ends.server), (ends.server, ends.client)):
                if direction in (
                    "both ways",
                    "to the destination" if one is ends.client else "to the source",
                ):
                    both.start_soon(write, one)
                    both.start_soon(read, other)
                else:
                    await one.send_eof()
    total = blocks * len(BLOCK)
    for record in await ends.mesh.records():
        assert record.close_kind is CloseKind.FIN
        assert record.bytes_sent == (0 if direction == "to the source" else total)
        assert record.bytes_received == (0 if direction == "to the destination" else total)


async def test_many_connections_at_once_keep_apart(running: Mesh, nursery: trio.Nursery) -> None:
    running.aim = await serve_application(nursery, echo)

    async def converse(number: int) -> None:
        async with await running.connect() as client:
            await client.send_all(number.to_bytes(4, "big") * 10_000)
            await client.send_eof()
            assert await receive_all(client) == number.to_bytes(4, "big") * 10_000

    async with trio.open_nursery() as clients:
        for number in range(100):
            clients.start_soon(converse, number)
    await running.source.recorder.wait_closed(100)
    await running.destination.recorder.wait_closed(100)
    assert len(running.source.context.live) == len(running.destination.context.live) == 0


# A tunnel that is cut off is not an end: the application would take half for the whole.


@pytest.fixture
def good() -> SSL.Context:
    return tls_context(Proof.of(svid("a")))


async def test_truncated_tunnel_is_a_reset_for_the_application(
    running: Mesh, nursery: trio.Nursery, good: SSL.Context
) -> None:
    outcomes: list[bool] = []

    async def application(stream: trio.SocketStream) -> None:
        outcomes.append(await is_reset(stream))

    target = await serve_application(nursery, application)
    with tunnel_client(good, running.destination) as stream:
        await stream.handshake()
        await send(stream, request(target))
        await receive_some(stream)
        await send(stream, b"half of it")
        stream.close()  # a FIN, and no close_notify
        record = await running.destination.recorder.only_record()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert outcomes == [True]
    assert (record.verdict, record.closed_by, record.close_kind) == (
        "permit",
        ClosedBy.SOURCE,
        CloseKind.RESET,
    )


async def test_garbage_inside_the_tunnel_is_a_reset_for_the_application(
    running: Mesh, nursery: trio.Nursery, good: SSL.Context
) -> None:
    outcomes: list[bool] = []

    async def application(stream: trio.SocketStream) -> None:
        outcomes.append(await is_reset(stream))

    target = await serve_application(nursery, application)
    with tunnel_client(good, running.destination) as stream:
        await stream.handshake()
        await send(stream, request(target))
        await receive_some(stream)
        stream._socket.send(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody encrypted
        with pytest.raises(StreamBroken):
            await receive_some(stream)
        record = await running.destination.recorder.only_record()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert outcomes == [True]
    assert record.close_kind is CloseKind.RESET


async def test_connection_may_stay_half_closed_for_as_long_as_it_likes(ends: Ends) -> None:
    await ends.client.send_eof()
    assert await receive_all(ends.server) == b""
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked(0.1)
        await ends.server.send_all(b"tick")
        with trio.fail_after(DEADLINE_SECONDS):
            assert await ends.client.receive_some(10) == b"tick"
    assert ends.mesh.source.recorder.closed_records == []
