"""A connection that was held, of a namespace that is outside: carried on as it is, or reset."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.policy.verdict import Transport
from interceptor.proxy.pass_through import HELD_OUTSIDE, Outlet, handle
from interceptor.workload import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = ip_address("127.0.0.1")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def outlet(destination: Endpoint | None) -> Outlet:
    return Outlet(
        lambda family: socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK),
        lambda _: destination,
        5,
    )


def accepted_connection(stack: ExitStack) -> tuple[trio.SocketStream, socket.socket]:
    """An application's end, and what the listener accepted."""
    listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    client = stack.enter_context(socket.create_connection(listening.getsockname()))
    accepted = listening.accept()[0]
    accepted.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(client)), accepted


def test_permit_is_one_of_its_own_kind() -> None:
    assert HELD_OUTSIDE.transport is Transport.PLAINTEXT
    assert "held" in HELD_OUTSIDE.note


async def test_held_connection_is_carried_to_where_it_was_meant_to_go(stack: ExitStack) -> None:
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    client, accepted = accepted_connection(stack)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle, accepted, outlet(Endpoint(LOOPBACK, server.getsockname()[1])))
        await client.send_all(b"question")
        far, _ = await trio.to_thread.run_sync(server.accept)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        assert await stream.receive_some() == b"question"
        await client.send_eof()
        assert await stream.receive_some() == b""
        await stream.send_all(b"answer")
        await stream.aclose()
        assert await client.receive_some() == b"answer"
        assert await client.receive_some() == b""


async def test_held_connection_whose_destination_nobody_knows_is_reset(stack: ExitStack) -> None:
    client, accepted = accepted_connection(stack)
    await handle(accepted, outlet(None))
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()


async def test_held_connection_whose_destination_refuses_is_reset(stack: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    client, accepted = accepted_connection(stack)
    await handle(accepted, outlet(Endpoint(LOOPBACK, port)))
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
