"""Accepting: what the listeners do when they are closed, when descriptors run out, and when all of it ends."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio
import trio.testing

from interceptor.policy.verdict import Reason
from tests.proxy.mesh import Mesh, echo, is_reset, receive_all, serve_application

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


FILES = Path("/proc/self/fd")


def open_files() -> int:
    return len(list(FILES.iterdir()))


def assert_port_is_free(address: tuple[str, int]) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)


async def test_stop_resets_what_is_open_and_frees_the_ports_at_once(
    mesh: Mesh, nursery: trio.Nursery
) -> None:
    mesh.destination.start(nursery)
    mesh.aim = await serve_application(nursery, echo)
    address = mesh.source.outbound.getsockname()
    done = trio.Event()

    async def serve() -> None:
        await proxy.run()
        done.set()

    proxy = mesh.source.proxy()
    nursery.start_soon(serve)
    async with await mesh.connect() as client:
        await mesh.source.recorder.wait_opened()
        proxy.stop(Reason.WITHDRAWN)
        assert_port_is_free(address)
        assert await is_reset(client)
        with trio.fail_after(5):
            await done.wait()
    record = await mesh.source.recorder.only_record()
    assert (record.verdict, record.reason) == ("denial", Reason.WITHDRAWN)


async def test_stop_before_it_runs_ends_it_at_once(mesh: Mesh) -> None:
    proxy = mesh.source.proxy()
    proxy.stop(Reason.WITHDRAWN)
    with trio.fail_after(5):
        await proxy.run()


async def test_stop_at_the_moment_of_a_connection_ends_it_in_peace(mesh: Mesh) -> None:
    """The accepting task may have been woken, and not yet run, when its listener is closed."""
    for _ in range(20):
        proxy = mesh.source.proxy()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(proxy.run)
                await trio.testing.wait_all_tasks_blocked()
                with socket.create_connection(mesh.source.outbound.getsockname()):
                    # Woken by the same events as the accepting task, so that either may run first.
                    await trio.lowlevel.wait_writable(mesh.source.context.open_socket(socket.AF_INET))
                    proxy.stop(Reason.WITHDRAWN)
        for sock in mesh.source.sockets:
            sock.close()
        mesh.source.__init__(mesh.source.workload, mesh, "127.0.0.2")  # type: ignore[misc] # new listeners


async def test_agent_that_ends_resets_its_connections_and_says_why(mesh: Mesh, nursery: trio.Nursery) -> None:
    mesh.destination.start(nursery)
    mesh.aim = await serve_application(nursery, echo)
    with trio.CancelScope() as agent:
        async with trio.open_nursery() as tasks, await mesh.connect() as client:
            mesh.source.start(tasks)
            await mesh.source.recorder.wait_opened()
            agent.cancel()
    with trio.fail_after(5):
        record = await mesh.source.recorder.only_record()
    assert (record.verdict, record.reason) == ("denial", Reason.AGENT_STOPPING)
    assert client.socket.fileno() == -1


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let this process open nothing more, whatever it has open: as when every descriptor is in use."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_descriptors_that_run_out_delay_connections_and_lose_none(
    running: Mesh, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    running.aim = await serve_application(nursery, echo)
    async with await running.connect() as client:
        await client.send_all(b"first")
        assert await client.receive_some() == b"first"
        waiting = socket.socket()
        with no_descriptor_left():
            waiting.connect(running.source.outbound.getsockname())  # into the backlog
            with trio.fail_after(5):
                while not caplog.records:  # noqa: ASYNC110 - a log has no event
                    await trio.sleep(0.01)
            assert "cannot accept: Too many open files" in caplog.text
        await client.send_eof()
        assert await receive_all(client) == b""
    waiting.setblocking(False)
    async with trio.SocketStream(trio.socket.from_stdlib_socket(waiting)) as stream:
        await stream.send_all(b"at last")
        await stream.send_eof()
        assert await receive_all(stream) == b"at last"
    await running.source.recorder.wait_closed(2)


async def test_connections_leave_no_descriptor_and_no_task_behind(
    running: Mesh, nursery: trio.Nursery
) -> None:
    running.aim = await serve_application(nursery, echo)

    async def converse() -> None:
        async with await running.connect() as client:
            await client.send_all(b"x")
            await client.send_eof()
            assert await receive_all(client) == b"x"

    await converse()
    await running.destination.recorder.wait_closed(1)
    await trio.testing.wait_all_tasks_blocked()
    descriptors = open_files()
    tasks = trio.lowlevel.current_statistics().tasks_living
    for _ in range(50):
        await converse()
    await running.source.recorder.wait_closed(51)
    await running.destination.recorder.wait_closed(51)
    await trio.testing.wait_all_tasks_blocked()
    assert open_files() == descriptors
    assert trio.lowlevel.current_statistics().tasks_living == tasks
