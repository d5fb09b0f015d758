"""Clients that are slow, loud, many or no TLS clients at all: they are sent away, and the others are served."""

from __future__ import annotations

import contextlib
import os
import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from OpenSSL import SSL

from interceptor.authority_service import DeskLimits, ServerLimits
from interceptor.authority_service.http import Waits
from interceptor.authority_service.routes import origin_of
from interceptor.errors import AuthorityUnavailable, PeerRejected
from interceptor.identity.authority import Authority
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.transport.streams import StreamBroken
from interceptor.transport.tls import RECORD_BYTES
from tests.authority_service.running import DEADLINE_SECONDS, Raw, Service, raw, request
from tests.authority_service.test_api import svid_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from interceptor.identity.svid import NodeSvid

SHORT = Waits(idle_seconds=0.3, request_seconds=0.3, answer_seconds=0.3)
LIMITS = ServerLimits(
    connections=12,
    connections_of_one_origin=10,
    handshakes=4,
    handshake_seconds=0.3,
    nodes=SHORT,
    strangers=SHORT,
    stranger_seconds=0.6,
)


@pytest.fixture
async def narrow(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Service]:
    """A service with small limits."""
    service = Service(tmp_path, options={"server_limits": LIMITS})
    await service.start(nursery)
    yield service
    await service.stop()
    service.close()


@pytest.fixture
async def node(service: Service) -> NodeSvid:
    client = await service.joined("node-a")
    assert client.svid is not None
    return client.svid


async def code_of(client: Raw) -> str:
    _, answer = await client.receive_answer()
    return str(answer["code"])


async def is_served(service: Service) -> bool:
    client = await service.joined("honest")
    await svid_of(client)
    return True


def connected(service: Service) -> socket.socket:
    return socket.create_connection((str(service.endpoint.address), service.endpoint.port))


async def ends(sock: socket.socket) -> bool:
    """Whether the server ends a connection, in whatever way."""
    sock.setblocking(False)
    with trio.fail_after(DEADLINE_SECONDS):
        while True:
            await trio.lowlevel.wait_readable(sock)
            with suppress(ConnectionError):
                if sock.recv(65536):
                    continue
            return True


# Too much.


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000,
        b"GET /" + b"x" * 20_000,
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 5000,
    ],
    ids=["long-header", "long-path", "many-headers"],
)
async def test_header_that_is_too_large_is_refused(service: Service, node: NodeSvid, head: bytes) -> None:
    async with raw(service, node) as client:
        await client.send(head)
        assert await code_of(client) == "request_too_large"
        assert await client.receive_all() == b""
    assert service.audit("refused")[-1]["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("path", "size", "code"),
    [
        ("/v1/issue", 32 * 1024, "request_malformed"),
        ("/v1/issue", 32 * 1024 + 1, "request_too_large"),
        ("/v1/join", 32 * 1024 + 1, "request_too_large"),
        ("/v1/report", 1024 * 1024, "request_malformed"),
        ("/v1/report", 1024 * 1024 + 1, "request_too_large"),
    ],
)
async def test_body_is_bounded_for_each_path(
    service: Service, node: NodeSvid, path: str, size: int, code: str
) -> None:
    async with raw(service, node) as client:
        await client.send(request("POST", path, bytes(size)))
        assert await code_of(client) == code


async def test_body_in_chunks_without_end_is_refused(service: Service, node: NodeSvid) -> None:
    async with raw(service, node) as client:
        await client.send(b"POST /v1/issue HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(StreamBroken):
            for _ in range(40):
                await client.send(b"400\r\n" + bytes(1024) + b"\r\n")
        assert await code_of(client) == "request_too_large"


async def test_announced_body_that_is_too_large_is_not_waited_for(service: Service, node: NodeSvid) -> None:
    async with raw(service, node) as client:
        await client.send(b"POST /v1/issue HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
        assert await code_of(client) == "request_too_large"


async def test_refused_client_that_sends_on_is_not_reset_before_it_can_read_why(
    service: Service, node: NodeSvid
) -> None:
    async with raw(service, node) as client:
        body = bytes(1_000_000)
        await client.send(request("POST", "/v1/issue", body)[: -len(body)])
        assert await code_of(client) == "request_too_large"
        await client.send(body)
        with trio.fail_after(DEADLINE_SECONDS):
            assert await client.stream.receive_into(memoryview(bytearray(RECORD_BYTES))) == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/issue HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST /v1/issue HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/issue HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        bytes(range(128, 256)) + b"\r\n\r\n",
    ],
    ids=["zeros", "http-2", "no-host", "two-lengths", "negative", "bad-chunk", "not-ascii", "high-bytes"],
)
async def test_bytes_that_are_no_http_are_refused(service: Service, node: NodeSvid, garbage: bytes) -> None:
    async with raw(service, node) as client:
        await client.send(garbage)
        assert await code_of(client) == "request_malformed"
        assert await client.receive_all() == b""
    assert await is_served(service)


async def test_client_that_wants_to_close_is_let_go(service: Service, node: NodeSvid) -> None:
    async with raw(service, node) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await client.receive_answer())[0] == 200
        with trio.fail_after(DEADLINE_SECONDS):
            assert await client.stream.receive_into(memoryview(bytearray(RECORD_BYTES))) == 0


async def test_requests_one_behind_the_other_are_answered_in_order(service: Service, node: NodeSvid) -> None:
    async with raw(service, node) as client:
        await client.send(
            request("GET", "/healthz") + request("GET", "/nowhere") + request("GET", "/healthz")
        )
        await client.stream.finish_sending()
        answers = (await client.receive_all()).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"404", b"200"]


# Too slow.


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        b"POST /v1/issue HTTP/1.1\r\nHost: a",
        b"POST /v1/issue HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
    ],
    ids=["silent", "half-a-header", "half-a-body"],
)
async def test_client_that_does_not_go_on_is_sent_away(narrow: Service, begin: bytes) -> None:
    for shown in (None, (await narrow.joined("node-a")).svid):
        async with raw(narrow, shown) as client:
            if begin:
                await client.send(begin)
            with trio.fail_after(3):
                assert await client.receive_all() == b""


async def test_client_that_sends_a_byte_now_and_then_is_sent_away(narrow: Service) -> None:
    for shown in (None, (await narrow.joined("node-a")).svid):
        async with raw(narrow, shown) as client:
            began_at = trio.current_time()
            with suppress(StreamBroken):
                for byte in request("GET", "/healthz", b"x" * 1000):
                    await client.send(bytes([byte]))
                    await trio.sleep(0.05)
            assert trio.current_time() - began_at < 3


async def test_stranger_may_not_stay_by_asking_again_and_again(narrow: Service) -> None:
    async with raw(narrow, None) as client:
        began_at = trio.current_time()
        with suppress(StreamBroken, AssertionError):
            while trio.current_time() - began_at < DEADLINE_SECONDS:
                await client.ask("GET", "/healthz")
                await trio.sleep(0.1)
        assert trio.current_time() - began_at < 3


async def test_client_that_does_not_take_its_answers_is_sent_away(narrow: Service) -> None:
    client = await narrow.joined("node-a")
    narrow.store.federate(Authority.create(TrustDomain("other.example"), narrow.clock()).trust_bundle)
    question = request("GET", "/v1/trust")
    async with raw(narrow, client.svid) as one:
        with trio.fail_after(5), suppress(StreamBroken):
            while True:  # until its answers fill both sides' buffers, and then it is reset
                await one.stream.send_all(memoryview(question * 100))
    assert await is_served(narrow)


async def test_handshake_that_does_not_go_on_ends(narrow: Service) -> None:
    with connected(narrow) as sock:
        sock.sendall(b"\x16\x03\x01")
        assert await ends(sock)
    assert await is_served(narrow)


# Too many.


async def test_connections_are_bounded_and_places_come_back(narrow: Service) -> None:
    async with contextlib.AsyncExitStack() as stack:
        served = refused = 0
        for _ in range(LIMITS.connections + 5):
            try:
                await stack.enter_async_context(raw(narrow, None))
            except (PeerRejected, StreamBroken):
                refused += 1
            else:
                served += 1
        assert served <= LIMITS.connections_of_one_origin
        assert refused >= 5
    with trio.fail_after(DEADLINE_SECONDS):
        while True:
            with suppress(Exception):
                assert await is_served(narrow)
                break
            await trio.sleep(0.05)


async def test_handshakes_under_way_are_bounded(tmp_path: Path, nursery: trio.Nursery) -> None:
    service = Service(tmp_path, options={"server_limits": ServerLimits(handshakes=4, handshake_seconds=60)})
    await service.start(nursery)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connected(service)).sendall(b"\x16")
        await trio.testing.wait_all_tasks_blocked(0.05)
        one_too_many = stack.enter_context(connected(service))
        assert await ends(one_too_many)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert await is_served(service)
    await service.stop()
    service.close()


# No TLS as we speak it.


async def test_tls_1_2_is_refused(service: Service, node: NodeSvid) -> None:
    with pytest.raises((PeerRejected, StreamBroken)):
        async with raw(service, node, version=SSL.TLS1_2_VERSION):
            pass
    assert await is_served(service)


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 300, b"\0" * 70_000, os.urandom(5000)],
    ids=["http", "long-record", "zeros", "random"],
)
async def test_bytes_that_are_no_tls_end_the_connection(service: Service, garbage: bytes) -> None:
    with connected(service) as sock:
        with suppress(ConnectionError):
            sock.sendall(garbage)
        assert await ends(sock)
    assert await is_served(service)


async def test_client_that_leaves_at_any_moment_leaves_nothing_behind(
    service: Service, node: NodeSvid
) -> None:
    for length in range(7, 120, 7):
        async with raw(service, node) as client:
            await client.send(request("GET", "/v1/trust?wait=60", b"x" * 60)[:length])
    with connected(service):
        pass
    assert await is_served(service)


async def test_flood_of_refusals_does_not_wash_the_audit_out(service: Service) -> None:
    asked = 1200
    async with raw(service, None) as client:
        for _ in range(asked):
            await client.ask("GET", "/v1/trust")
    written = service.audit("refused")
    assert 1000 <= len(written) < asked
    with trio.fail_after(DEADLINE_SECONDS):
        while len(lines := service.audit("refused")) == len(written):
            async with raw(service, None) as client:
                await client.ask("GET", "/v1/trust")
            asked += 1
    assert sum(line["unwritten_before"] for line in lines) + len(lines) == asked


async def test_joins_of_strangers_take_no_place_from_the_nodes(tmp_path: Path, nursery: trio.Nursery) -> None:
    """The window that remembers requests is one for nodes and another for those who want to be."""
    service = Service(tmp_path, options={"desk_limits": DeskLimits(remembered_joins=2)})
    await service.start(nursery)
    client = await service.joined("node-a")
    await service.joined("node-b")
    with pytest.raises(AuthorityUnavailable, match=r"^rate_limited: .* or 2 of all, within two minutes"):
        await service.joined("node-c")
    await svid_of(client)
    await service.stop()
    service.close()


@pytest.mark.parametrize(
    ("address", "origin"),
    [("10.0.0.1", "10.0.0.1"), ("fd00::1:2:3:4:5", "fd00:0:0:1::/64"), ("::1", "::/64")],
)
def test_origin_is_what_one_host_may_have(address: str, origin: str) -> None:
    assert origin_of(ip_address(address)) == origin
