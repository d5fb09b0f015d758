"""The metrics port: GET, two paths, and bounds on everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from interceptor.metrics_server import MAX_CLIENTS, REQUEST_SECONDS, MetricsServer

if TYPE_CHECKING:
    from trio.testing import MockClock


async def _exchange(server: MetricsServer, request: bytes, *, ends: bool = True) -> bytes:
    ours, theirs = trio.socket.socketpair()
    stream = trio.SocketStream(ours)
    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._handle, trio.SocketStream(theirs))
        try:
            await stream.send_all(request)
            if ends:
                await stream.send_eof()
            while chunk := await stream.receive_some(65536):
                received += chunk
        except trio.BrokenResourceError:
            pass  # cut off
        await stream.aclose()
    return received


def _server(missing: list[str] | None = None) -> MetricsServer:
    return MetricsServer(lambda: b"metric 1\n", lambda: missing or [])


def _request(method: str, target: str) -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("method", "target", "status", "body"),
    [
        ("GET", "/metrics", b"200", b"metric 1\n"),
        ("HEAD", "/metrics", b"200", b""),
        ("GET", "/ready", b"200", b"ready\n"),
        ("GET", "/alive", b"200", b"alive\n"),
        ("GET", "/", b"404", b"try /metrics, /ready or /alive\n"),
        ("GET", "/metrics?x", b"404", b"try /metrics, /ready or /alive\n"),
        ("POST", "/metrics", b"405", b"only GET is answered here\n"),
        ("DELETE", "/ready", b"405", b"only GET is answered here\n"),
    ],
)
async def test_metrics_server_answers_get_on_two_paths(
    method: str, target: str, status: bytes, body: bytes
) -> None:
    head, _, found = (await _exchange(_server(), _request(method, target))).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert found == body


async def test_metrics_server_says_what_is_missing_until_ready() -> None:
    answer = await _exchange(_server(["one thing", "another"]), _request("GET", "/ready"))
    assert answer.startswith(b"HTTP/1.1 503")
    assert answer.endswith(b"one thing\nanother\n")


async def test_metrics_server_that_is_ready_says_what_may_be_missing_soon() -> None:
    server = MetricsServer(lambda: b"", list, lambda: ["the certificate of a is late"])
    answer = await _exchange(server, _request("GET", "/ready"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"ready\nwarning: the certificate of a is late\n")


@pytest.mark.parametrize(
    "request_bytes", [b"", b"\x16\x03\x01", b"GET /" + b"a" * 20_000, b"\x00\r\n\r\n", b"GET"]
)
async def test_metrics_server_cuts_off_what_is_no_request(request_bytes: bytes) -> None:
    answer = await _exchange(_server(), request_bytes)
    assert not answer.startswith(b"HTTP/1.1 200")


async def test_metrics_server_does_not_wait_for_slow_clients(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    assert await _exchange(_server(), b"GET /metrics HTTP/1.1\r\n", ends=False) == b""
    assert trio.current_time() - started == pytest.approx(REQUEST_SECONDS, abs=0.5)


async def test_metrics_server_serves_so_many_clients_and_no_more(autojump_clock: MockClock) -> None:
    server = _server()
    async with trio.open_nursery() as nursery:
        near = []
        for _ in range(MAX_CLIENTS):
            ours, theirs = trio.socket.socketpair()
            near.append(ours)
            nursery.start_soon(server._handle, trio.SocketStream(theirs))
        await trio.testing.wait_all_tasks_blocked()
        assert await _exchange(server, _request("GET", "/metrics")) == b""
        for ours in near:
            ours.close()
    assert (await _exchange(server, _request("GET", "/metrics"))).startswith(b"HTTP/1.1 200")
