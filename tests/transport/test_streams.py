"""Plain TCP sockets as byte streams: short reads, both ends, resets, waiting without busy loops."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from interceptor.transport.streams import PlainStream, StreamBroken, abort_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[PlainStream, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A stream of ours, and the other end of its TCP connection as a blocking socket."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), timeout=5) as theirs,
        listening.accept()[0] as ours,
    ):
        ours.setblocking(False)
        yield PlainStream(ours), theirs


def buffer(size: int = 10) -> memoryview:
    return memoryview(bytearray(size))


async def test_receive_waits_and_takes_what_is_there(pair: Pair, nursery: trio.Nursery) -> None:
    ours, theirs = pair
    received = buffer()
    counts: list[int] = []

    async def receive() -> None:
        counts.append(await ours.receive_into(received))

    nursery.start_soon(receive)
    await trio.testing.wait_all_tasks_blocked()
    assert counts == []
    theirs.sendall(b"four")
    with trio.fail_after(5):
        while not counts:
            await trio.lowlevel.checkpoint()
    assert (counts, bytes(received[:4])) == ([4], b"four")


async def test_receive_after_a_full_buffer_gets_the_rest(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"0123456789rest")
    received = buffer()
    assert await ours.receive_into(received) == 10
    assert await ours.receive_into(received) == 4
    theirs.sendall(b"0123456789")
    assert await ours.receive_into(received) == 10
    theirs.shutdown(socket.SHUT_WR)
    assert await ours.receive_into(received) == 0


async def test_receive_waits_again_when_a_full_buffer_was_the_last(pair: Pair, nursery: trio.Nursery) -> None:
    ours, theirs = pair
    theirs.sendall(b"0123456789")
    received = buffer()
    assert await ours.receive_into(received) == 10
    with trio.move_on_after(0.05) as scope:
        await ours.receive_into(received)
    assert scope.cancelled_caught


async def test_send_waits_for_a_slow_reader_and_sends_everything(pair: Pair) -> None:
    ours, theirs = pair
    data = bytes(range(256)) * 40_000
    received = bytearray()

    def read() -> None:
        while len(received) < len(data):
            received.extend(theirs.recv(1 << 20))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, read)
        with trio.fail_after(10):
            await ours.send_all(memoryview(data))
    assert received == data


async def test_finish_sending_leaves_the_other_direction_open(pair: Pair) -> None:
    ours, theirs = pair
    await ours.finish_sending()
    assert theirs.recv(1) == b""
    theirs.sendall(b"x")
    assert await ours.receive_into(buffer()) == 1


async def test_reset_breaks_every_operation(pair: Pair) -> None:
    ours, theirs = pair
    abort_socket(theirs)
    with pytest.raises(StreamBroken, match="Connection reset by peer"):
        await ours.receive_into(buffer())
    with pytest.raises(StreamBroken, match="Broken pipe"):
        await ours.send_all(memoryview(b"x"))
    with pytest.raises(StreamBroken, match="not connected"):
        await ours.finish_sending()


async def test_abort_is_a_reset_and_may_be_repeated(pair: Pair) -> None:
    ours, theirs = pair
    ours.abort()
    ours.abort()
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)


async def test_close_is_a_clean_end_and_an_abort_after_it_changes_nothing(pair: Pair) -> None:
    ours, theirs = pair
    ours.close()
    ours.abort()
    assert theirs.recv(1) == b""


def die(ours: PlainStream) -> None:
    """What the kernel does with a socket of a process that was killed."""
    os.close(ours._socket.detach())


async def test_stream_of_a_process_that_died_is_reset_and_does_not_end(pair: Pair) -> None:
    ours, theirs = pair
    await ours.send_all(memoryview(b"a part"))
    assert theirs.recv(10) == b"a part"
    die(ours)
    with pytest.raises(ConnectionResetError):
        theirs.recv(10)


async def test_stream_that_was_finished_ends_even_when_the_process_dies(pair: Pair) -> None:
    ours, theirs = pair
    await ours.send_all(memoryview(b"the whole"))
    await ours.finish_sending()
    die(ours)
    assert theirs.recv(10) == b"the whole"
    assert theirs.recv(10) == b""
