"""From a peer's first byte to the application: who may pass, what the others are told, and what the record says."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from OpenSSL import SSL

from interceptor.errors import KernelError, PeerRejected
from interceptor.policy.verdict import Reason
from interceptor.proxy.connections import HandshakeLimit, LiveConnections
from interceptor.proxy.snapshot import Snapshot
from interceptor.telemetry.connection_record import ClosedBy, CloseKind
from interceptor.transport.streams import StreamBroken
from interceptor.workload import Endpoint
from tests.proxy import certificates
from tests.proxy.certificates import Proof, svid, tls_context
from tests.proxy.mesh import DESTINATION_ADDRESS, Mesh, echo, listening, serve_application
from tests.proxy.peers import receive_some, receive_until_end, request, send, tunnel_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.telemetry.connection_record import ConnectionRecord

APPLICATION = Endpoint(DESTINATION_ADDRESS, 80)


@pytest.fixture
def inbound(mesh: Mesh, nursery: trio.Nursery) -> Mesh:
    """A mesh of which only the destination is ours; the test plays the source."""
    mesh.destination.start(nursery)
    return mesh


@pytest.fixture
def good() -> SSL.Context:
    return tls_context(Proof.of(svid("a")))


async def refused(mesh: Mesh, reason: Reason, detail: str = "") -> ConnectionRecord:
    record = await mesh.destination.recorder.only_record()
    assert (record.verdict, record.reason) == ("denial", reason), record.detail
    assert detail in record.detail
    assert (record.closed_by, record.close_kind) == (ClosedBy.INTERCEPTOR, CloseKind.RESET)
    assert record.bytes_sent == record.bytes_received == 0
    assert mesh.destination.recorder.opened_records == []
    return record


async def test_proven_peer_reaches_the_application(
    inbound: Mesh, good: SSL.Context, nursery: trio.Nursery
) -> None:
    target = await serve_application(nursery, echo)
    with tunnel_client(good, inbound.destination) as stream:
        await stream.handshake()
        await send(stream, request(target))
        assert await receive_some(stream) == b"HTTP/1.1 200 \r\n\r\n"
        await send(stream, b"question")
        assert await receive_some(stream) == b"question"
        await stream.finish_sending()
        assert await receive_until_end(stream) == b""
    record = await inbound.destination.recorder.only_record()
    assert (record.verdict, record.source_identity) == ("permit", certificates.identity("a"))
    # It came from 127.0.0.1, which the registry gives to b: the address proves nothing.
    assert record.source_workload is None


@pytest.mark.parametrize("flaw", certificates.HOSTILE)
async def test_peer_that_proves_no_identity_is_refused(inbound: Mesh, flaw: str) -> None:
    proof, reason, detail = certificates.hostile("a")[flaw]
    with tunnel_client(tls_context(proof), inbound.destination) as stream, suppress(StreamBroken):
        # In TLS 1.3 a client learns of the refusal after its own handshake.
        await stream.handshake()
        await send(stream, request(APPLICATION))
        assert await receive_until_end(stream) == b"never"
    record = await refused(inbound, reason, detail)
    assert record.source_identity is None


async def test_peer_is_told_why_its_certificate_was_refused(inbound: Mesh) -> None:
    proof, _, _ = certificates.hostile("a")["expired"]
    with tunnel_client(tls_context(proof), inbound.destination) as stream:
        await stream.handshake()
        with pytest.raises(StreamBroken, match="alert"):
            await receive_until_end(stream)


async def test_peer_without_certificate_is_refused(inbound: Mesh) -> None:
    with tunnel_client(tls_context(None), inbound.destination) as stream:
        await stream.handshake()
        with pytest.raises(StreamBroken, match="certificate required"):
            await receive_until_end(stream)
    await refused(inbound, Reason.PEER_WITHOUT_CERTIFICATE)


async def test_peer_with_tls_1_2_is_refused(inbound: Mesh) -> None:
    old = tls_context(Proof.of(svid("a")), version=SSL.TLS1_2_VERSION)
    with tunnel_client(old, inbound.destination) as stream, pytest.raises(PeerRejected, match="version"):
        await stream.handshake()
    await refused(inbound, Reason.HANDSHAKE_FAILED, "unsupported protocol")


@pytest.mark.parametrize("protocols", [(), (b"h2",)], ids=["none", "h2"])
async def test_peer_that_does_not_offer_our_protocol_is_refused(
    inbound: Mesh, protocols: tuple[bytes, ...]
) -> None:
    context = tls_context(Proof.of(svid("a")), protocols=protocols)
    with tunnel_client(context, inbound.destination) as stream, suppress(StreamBroken):
        await stream.handshake()
        await send(stream, request(APPLICATION))
        assert await receive_until_end(stream) == b"never"
    record = await refused(inbound, Reason.NOT_A_TUNNEL_REQUEST, "does not offer http/1.1 by ALPN")
    assert record.source_identity == certificates.identity("a")


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", bytes(100)])
async def test_peer_that_speaks_no_tls_is_refused(inbound: Mesh, first: bytes) -> None:
    with socket.create_connection(inbound.destination.tunnel.getsockname()) as sock:
        sock.sendall(first)
        sock.shutdown(socket.SHUT_WR)
        await refused(inbound, Reason.HANDSHAKE_FAILED)


async def test_peer_that_leaves_at_once_is_recorded(inbound: Mesh) -> None:
    sock = socket.create_connection(inbound.destination.tunnel.getsockname())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()
    await refused(inbound, Reason.HANDSHAKE_FAILED)


async def test_session_is_not_resumed(inbound: Mesh, good: SSL.Context, nursery: trio.Nursery) -> None:
    good.set_session_cache_mode(SSL.SESS_CACHE_CLIENT)
    target = await serve_application(nursery, echo)
    session = None
    for _ in range(2):
        with tunnel_client(good, inbound.destination) as stream:
            if session is not None:
                stream._connection.set_session(session)
            await stream.handshake()
            assert not SSL._lib.SSL_session_reused(stream._connection._ssl)
            await send(stream, request(target))
            await receive_some(stream)
            session = stream._connection.get_session()
            await stream.finish_sending()
            assert await receive_until_end(stream) == b""
    assert inbound.destination.recorder.handshakes == ["server", "server"]


# What a peer that is known may ask for.


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"400", Reason.NOT_A_TUNNEL_REQUEST),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400", Reason.NOT_A_TUNNEL_REQUEST),
        (request("web.default:80"), b"400", Reason.NOT_A_TUNNEL_REQUEST),
        (request("127.0.0.1:0"), b"400", Reason.NOT_A_TUNNEL_REQUEST),
        (request("127.0.0.1:80") + b"early", b"400", Reason.NOT_A_TUNNEL_REQUEST),
        (
            b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: x\r\nA: " + bytes(17000),
            b"400",
            Reason.NOT_A_TUNNEL_REQUEST,
        ),
        (request("127.0.0.7:80"), b"400", Reason.AUTHORITY_MISMATCH),
        (request("[::1]:80"), b"400", Reason.AUTHORITY_MISMATCH),
        (request("127.0.0.1:15006"), b"401", Reason.RESERVED_PORT),
        (request("127.0.0.1:15008"), b"401", Reason.RESERVED_PORT),
    ],
)
async def test_request_that_is_refused_is_answered_with_its_status(
    inbound: Mesh, good: SSL.Context, asked: bytes, status: bytes, reason: Reason
) -> None:
    with tunnel_client(good, inbound.destination) as stream:
        await stream.handshake()
        await send(stream, asked)
        assert (await receive_until_end(stream)).startswith(b"HTTP/1.1 " + status)
    record = await refused(inbound, reason)
    assert record.source_identity == certificates.identity("a")


async def test_status_reaches_a_peer_that_has_not_stopped_sending(inbound: Mesh, good: SSL.Context) -> None:
    """What it sent and we never read must not turn our answer into a reset before it was read."""
    with tunnel_client(good, inbound.destination) as stream:
        await stream.handshake()
        await send(stream, request("127.0.0.1:15006"))
        await send(stream, bytes(1000))
        await refused(inbound, Reason.RESERVED_PORT)
        assert (await receive_some(stream)).startswith(b"HTTP/1.1 401")


async def test_application_that_does_not_listen_is_answered_503(inbound: Mesh, good: SSL.Context) -> None:
    with listening("127.0.0.1") as sock:
        port = sock.getsockname()[1]
    with tunnel_client(good, inbound.destination) as stream:
        await stream.handshake()
        await send(stream, request(f"127.0.0.1:{port}"))
        assert (await receive_until_end(stream)).startswith(b"HTTP/1.1 503")
    await refused(inbound, Reason.DESTINATION_REFUSED)


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), KernelError("cannot take over")]
)
async def test_no_socket_left_is_answered_503(
    mesh: Mesh,
    nursery: trio.Nursery,
    good: SSL.Context,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def open_socket(_: int) -> socket.socket:
        raise error

    mesh.destination.change(open_socket=open_socket, open_transparent_socket=open_socket)
    mesh.destination.start(nursery)
    with tunnel_client(good, mesh.destination) as stream:
        await stream.handshake()
        await send(stream, request(APPLICATION))
        assert (await receive_until_end(stream)).startswith(b"HTTP/1.1 503")
    await refused(mesh, Reason.RESOURCES_EXHAUSTED, str(error))
    assert caplog.records == []


async def test_peer_that_leaves_after_its_handshake_is_recorded(inbound: Mesh, good: SSL.Context) -> None:
    with tunnel_client(good, inbound.destination) as stream:
        await stream.handshake()
        await send(stream, b"CONN")
        stream.abort()
    await refused(inbound, Reason.HANDSHAKE_FAILED, "the peer went away")


@pytest.mark.parametrize("first", [b"", b"CONNECT 127.0"])
async def test_peer_that_ends_without_a_request_is_recorded(
    inbound: Mesh, good: SSL.Context, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with tunnel_client(good, inbound.destination) as stream:
        await stream.handshake()
        if first:
            await send(stream, first)
        await stream.finish_sending()
        assert (await receive_until_end(stream))[:12] in (b"", b"HTTP/1.1 400")
    await refused(inbound, Reason.NOT_A_TUNNEL_REQUEST)
    assert caplog.records == []


async def test_workload_without_certificate_refuses(mesh: Mesh, nursery: trio.Nursery) -> None:
    mesh.destination.change(tls=Snapshot(None))
    mesh.destination.start(nursery)
    with tunnel_client(tls_context(None), mesh.destination):
        await refused(mesh, Reason.CERTIFICATE_MISSING)


# Limits.


@pytest.fixture
def slow_peers(mesh: Mesh) -> Iterator[list[socket.socket]]:
    sockets: list[socket.socket] = []
    yield sockets
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "stops"])
async def test_peer_that_does_not_finish_its_handshake_is_given_up(
    mesh: Mesh, nursery: trio.Nursery, first: bytes
) -> None:
    mesh.destination.limit(handshake_timeout=0.2)
    mesh.destination.start(nursery)
    with socket.create_connection(mesh.destination.tunnel.getsockname()) as sock:
        sock.sendall(first)
        await refused(mesh, Reason.HANDSHAKE_TIMEOUT)


async def test_peer_that_sends_its_request_byte_by_byte_is_given_up(
    mesh: Mesh, nursery: trio.Nursery, good: SSL.Context
) -> None:
    mesh.destination.limit(handshake_timeout=0.5)
    mesh.destination.start(nursery)
    with tunnel_client(good, mesh.destination) as stream, suppress(StreamBroken):
        await stream.handshake()
        for byte in request(APPLICATION):
            await send(stream, bytes([byte]))
            await trio.sleep(0.05)
        pytest.fail("all of it was taken")
    await refused(mesh, Reason.HANDSHAKE_TIMEOUT)


async def test_handshakes_under_way_are_bounded(
    mesh: Mesh, nursery: trio.Nursery, good: SSL.Context, slow_peers: list[socket.socket]
) -> None:
    mesh.destination.change(handshakes=HandshakeLimit(3))
    mesh.destination.start(nursery)
    slow_peers += [socket.create_connection(mesh.destination.tunnel.getsockname()) for _ in range(4)]
    record = await refused(mesh, Reason.TOO_MANY_CONNECTIONS, "3 handshakes are under way")
    assert record.source_identity is None
    for sock in slow_peers:
        sock.close()
    await mesh.destination.recorder.wait_closed(4)  # all places are free again
    with tunnel_client(good, mesh.destination) as stream:
        await stream.handshake()
        await send(stream, request("127.0.0.1:15006"))
        assert (await receive_until_end(stream)).startswith(b"HTTP/1.1 401")


async def test_connections_of_a_workload_are_bounded(
    mesh: Mesh, nursery: trio.Nursery, slow_peers: list[socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = mesh.destination.recorder
    mesh.destination.change(live=LiveConnections(mesh.destination.workload.key, 2, recorder))
    mesh.destination.start(nursery)
    slow_peers += [socket.create_connection(mesh.destination.tunnel.getsockname()) for _ in range(3)]
    await refused(mesh, Reason.TOO_MANY_CONNECTIONS, "the limit is 2")
    assert len(mesh.destination.context.live) == 2
    assert len(mesh.destination.context.live.records) == 2
    assert caplog.records == []
