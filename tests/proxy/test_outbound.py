"""From a captured connection to the tunnel, and every way in which it ends before that."""

from __future__ import annotations

import errno
import logging
import os
import socket
from contextlib import suppress
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from OpenSSL import SSL

from interceptor.errors import KernelError, PeerRejected
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import PolicySet
from interceptor.policy.verdict import Reason, Transport
from interceptor.proxy.route import by_ranges
from interceptor.proxy.snapshot import Snapshot
from interceptor.telemetry.connection_record import ClosedBy, CloseKind
from interceptor.transport.streams import StreamBroken
from interceptor.transport.tls import tls_contexts
from interceptor.workload import Endpoint
from tests.policy.world import egress, policies
from tests.proxy import certificates
from tests.proxy.certificates import Proof, svid, tls_context
from tests.proxy.mesh import (
    DESTINATION_ADDRESS,
    SOURCE_ADDRESS,
    Mesh,
    echo,
    is_reset,
    receive_all,
    serve_application,
)
from tests.proxy.peers import receive_some, receive_until_end, send, serve_tunnels

if TYPE_CHECKING:
    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.transport.tls import TlsStream

ANSWER = b"HTTP/1.1 200 OK\r\n\r\n"


async def refused(mesh: Mesh, reason: Reason, detail: str = "") -> ConnectionRecord:
    """Connect, be reset, and find why in the source's record."""
    async with await mesh.connect() as client:
        assert await is_reset(client)
    record = await mesh.source.recorder.only_record()
    assert (record.verdict, record.reason) == ("denial", reason), record.detail
    assert detail in record.detail
    assert (record.closed_by, record.close_kind) == (ClosedBy.INTERCEPTOR, CloseKind.RESET)
    assert record.bytes_sent == record.bytes_received == 0
    assert mesh.source.recorder.opened_records == []
    assert len(mesh.source.context.live) == 0
    return record


async def test_captured_connection_reaches_the_application_through_a_tunnel(
    running: Mesh, nursery: trio.Nursery
) -> None:
    seen: list[tuple[str, int]] = []

    async def application(stream: trio.SocketStream) -> None:
        seen.append(stream.socket.getpeername())
        await echo(stream)

    aim = running.aim = await serve_application(nursery, application)
    async with await running.connect() as client:
        port = client.socket.getsockname()[1]
        await client.send_all(b"question")
        await client.send_eof()
        assert await receive_all(client) == b"question"
    assert seen[0][0] == str(SOURCE_ADDRESS)
    sent, received = await running.records()
    for record in (sent, received):
        assert (record.verdict, record.transport, record.reason) == ("permit", Transport.MUTUAL_TLS, None)
        assert record.source_identity == certificates.identity("a")
        assert record.destination_identity == certificates.identity("b")
        assert (record.source_workload, record.destination_workload) == (
            running.source.workload,
            running.destination.workload,
        )
        assert record.destination == aim
        assert (record.tls_version, record.cipher) == ("TLSv1.3", "TLS_AES_128_GCM_SHA256")
        assert record.key_exchange
        assert (record.bytes_sent, record.bytes_received) == (8, 8)
        assert (record.closed_by, record.close_kind) == (ClosedBy.SOURCE, CloseKind.FIN)
    assert sent.trace_id == received.trace_id
    assert sent.source is not None
    assert sent.source.port == port
    assert running.source.recorder.handshakes == ["client"]
    assert running.destination.recorder.handshakes == ["server"]


async def test_ipv6_destination_is_reached(ipv6_mesh: Mesh, nursery: trio.Nursery) -> None:
    ipv6_mesh.aim = await serve_application(nursery, echo, "::1")
    async with await ipv6_mesh.connect() as client:
        await client.send_all(b"x")
        await client.send_eof()
        assert await receive_all(client) == b"x"
    assert {record.verdict for record in await ipv6_mesh.records()} == {"permit"}


async def test_connection_that_the_kernel_knows_nothing_of_is_refused(running: Mesh) -> None:
    record = await refused(running, Reason.NO_ORIGINAL_DESTINATION)
    assert record.destination is None


async def test_unknown_destination_is_refused_after_a_bounded_wait(running: Mesh) -> None:
    running.aim = Endpoint(SOURCE_ADDRESS, 80)
    running.registry.replace(running.registry.value.without(running.source.workload.key))
    started = trio.current_time()
    await refused(running, Reason.UNKNOWN_DESTINATION, "no workload has the address 127.0.0.2")
    assert trio.current_time() - started >= running.source.context.limits.unknown_destination_wait


async def test_destination_outside_of_the_mesh_is_decided_at_once_and_reached_in_plaintext(
    mesh: Mesh, nursery: trio.Nursery
) -> None:
    mesh.source.change(locate=by_ranges([ip_network("127.0.0.2/32")]))
    mesh.source.limit(unknown_destination_wait=60.0)  # longer than anything here waits for
    mesh.registry.replace(mesh.registry.value.without(mesh.destination.workload.key))
    mesh.source.start(nursery)
    mesh.aim = await serve_application(nursery, echo)
    async with await mesh.connect() as application:
        await application.send_all(b"plain")
        await application.send_eof()
        assert await receive_all(application) == b"plain"
    record = await mesh.source.recorder.only_record()
    assert (record.verdict, record.transport, record.is_outside) == ("permit", Transport.PLAINTEXT, True)


async def test_destination_outside_that_a_workload_may_have_again_is_no_stranger(
    mesh: Mesh, nursery: trio.Nursery
) -> None:
    mesh.source.change(locate=by_ranges([ip_network("127.0.0.2/32")], lambda a: a == DESTINATION_ADDRESS))
    mesh.registry.replace(mesh.registry.value.without(mesh.destination.workload.key))
    mesh.source.start(nursery)
    mesh.aim = Endpoint(DESTINATION_ADDRESS, 80)
    await refused(mesh, Reason.UNKNOWN_DESTINATION)


async def test_destination_outside_of_the_mesh_that_no_list_allows_is_refused_by_name(
    mesh: Mesh, nursery: trio.Nursery
) -> None:
    mesh.source.change(locate=by_ranges([ip_network("127.0.0.2/32")]))
    mesh.source.limit(unknown_destination_wait=60.0)  # longer than anything here waits for
    mesh.registry.replace(mesh.registry.value.without(mesh.destination.workload.key))
    mesh.policy.replace(policies(egress("nothing", "default", allow="[]")))
    mesh.source.start(nursery)
    mesh.aim = await serve_application(nursery, echo)
    record = await refused(mesh, Reason.EGRESS_DENIED)
    assert record.policy == "EgressPolicy default/nothing"


async def test_destination_that_is_enrolled_while_one_waits_is_reached(
    mesh: Mesh, nursery: trio.Nursery
) -> None:
    mesh.source.limit(unknown_destination_wait=10)
    mesh.start(nursery)
    mesh.aim = await serve_application(nursery, echo)
    complete = mesh.registry.value
    mesh.registry.replace(complete.without(mesh.destination.workload.key))
    async with await mesh.connect() as client:
        await client.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        mesh.registry.replace(
            complete.without(mesh.source.workload.key).without(mesh.destination.workload.key)
        )
        await trio.testing.wait_all_tasks_blocked()
        mesh.registry.replace(complete)
        await client.send_eof()
        assert await receive_all(client) == b"x"


async def test_reserved_port_is_refused(running: Mesh) -> None:
    running.aim = Endpoint(DESTINATION_ADDRESS, 15006)
    await refused(running, Reason.RESERVED_PORT)


async def test_mode_disable_sends_plaintext_to_the_application_itself(
    running: Mesh, nursery: trio.Nursery
) -> None:
    running.policy.replace(PolicySet(MtlsMode.DISABLE))
    running.aim = await serve_application(nursery, echo)
    async with await running.connect() as client:
        await client.send_all(b"x")
        await client.send_eof()
        assert await receive_all(client) == b"x"
    record = await running.source.recorder.only_record()
    assert (record.verdict, record.transport, record.tls_version) == ("permit", Transport.PLAINTEXT, None)
    assert record.destination_identity is None
    assert running.destination.recorder.closed_records == []


async def test_workload_without_certificate_is_refused_in_the_end(mesh: Mesh, nursery: trio.Nursery) -> None:
    mesh.source.change(tls=Snapshot(None))
    mesh.start(nursery)
    mesh.aim = Endpoint(DESTINATION_ADDRESS, 80)
    await refused(mesh, Reason.CERTIFICATE_MISSING)


async def test_first_certificate_is_waited_for(mesh: Mesh, nursery: trio.Nursery) -> None:
    contexts = mesh.source.context.tls.value
    tls = Snapshot(None)
    mesh.source.change(tls=tls)
    mesh.source.limit(unknown_destination_wait=10)
    mesh.start(nursery)
    mesh.aim = await serve_application(nursery, echo)
    async with await mesh.connect() as client:
        await trio.testing.wait_all_tasks_blocked()
        tls.replace(contexts)
        await client.send_eof()
        assert await receive_all(client) == b""


# Destinations that are not what the registry says.


async def test_destination_with_another_identity_is_refused(mesh: Mesh, nursery: trio.Nursery) -> None:
    mesh.destination.change(tls=Snapshot(tls_contexts(svid("impostor"), mesh.bundles)))
    mesh.start(nursery)
    mesh.aim = await serve_application(nursery, echo)
    record = await refused(
        mesh, Reason.IDENTITY_MISMATCH, "proved spiffe://cluster.local/ns/default/sa/impostor"
    )
    assert record.destination_identity == certificates.identity("impostor")
    other = await mesh.destination.recorder.only_record()
    assert (other.verdict, other.reason) == ("denial", Reason.HANDSHAKE_FAILED)
    assert mesh.destination.recorder.opened_records == []


@pytest.mark.parametrize("flaw", certificates.HOSTILE)
async def test_destination_that_proves_no_identity_is_refused(
    mesh: Mesh, nursery: trio.Nursery, flaw: str
) -> None:
    proof, reason, detail = certificates.hostile("b")[flaw]
    mesh.source.start(nursery)
    mesh.aim = Endpoint(DESTINATION_ADDRESS, 80)

    async def behaviour(stream: TlsStream) -> None:
        with suppress(StreamBroken, PeerRejected):
            await stream.handshake()
            assert await receive_until_end(stream) == b"never"

    nursery.start_soon(serve_tunnels, mesh.destination, tls_context(proof), behaviour)
    record = await refused(mesh, reason, detail)
    assert record.destination_identity is None


async def test_destination_without_tls_is_refused(mesh: Mesh, nursery: trio.Nursery) -> None:
    mesh.source.start(nursery)
    mesh.aim = Endpoint(DESTINATION_ADDRESS, 80)

    async def behaviour(stream: TlsStream) -> None:
        stream._socket.send(ANSWER)
        await trio.lowlevel.wait_readable(stream._socket)

    nursery.start_soon(serve_tunnels, mesh.destination, tls_context(None), behaviour)
    await refused(mesh, Reason.HANDSHAKE_FAILED)


async def test_destination_with_tls_1_2_is_refused(mesh: Mesh, nursery: trio.Nursery) -> None:
    mesh.source.start(nursery)
    mesh.aim = Endpoint(DESTINATION_ADDRESS, 80)

    async def behaviour(stream: TlsStream) -> None:
        with pytest.raises((StreamBroken, PeerRejected)):
            await stream.handshake()

    old = tls_context(Proof.of(svid("b")), version=SSL.TLS1_2_VERSION)
    nursery.start_soon(serve_tunnels, mesh.destination, old, behaviour)
    await refused(mesh, Reason.HANDSHAKE_FAILED, "protocol version")


async def test_destination_that_chooses_no_protocol_is_refused(mesh: Mesh, nursery: trio.Nursery) -> None:
    await tunnel_answer(mesh, nursery, b"", protocols=())
    await refused(mesh, Reason.NOT_A_TUNNEL_REQUEST, "does not speak http/1.1 tunnels")


async def test_silent_destination_is_given_up(mesh: Mesh, nursery: trio.Nursery) -> None:
    mesh.source.limit(handshake_timeout=0.2)
    mesh.source.start(nursery)  # and nobody accepts
    mesh.aim = Endpoint(DESTINATION_ADDRESS, 80)
    await refused(mesh, Reason.HANDSHAKE_TIMEOUT, "did not finish its handshake")


async def test_destination_that_never_answers_the_request_is_given_up(
    mesh: Mesh, nursery: trio.Nursery
) -> None:
    mesh.source.limit(handshake_timeout=0.5, connect_timeout=0.1)
    await tunnel_answer(mesh, nursery, b"")
    await refused(mesh, Reason.HANDSHAKE_TIMEOUT, "did not answer the tunnel request")


async def tunnel_answer(
    mesh: Mesh, nursery: trio.Nursery, answer: bytes, *, protocols: tuple[bytes, ...] = (b"http/1.1",)
) -> None:
    """Start the source alone; the destination proves who it is and answers the request with these bytes."""
    mesh.source.start(nursery)
    mesh.aim = Endpoint(DESTINATION_ADDRESS, 80)

    async def behaviour(stream: TlsStream) -> None:
        with suppress(StreamBroken):
            await stream.handshake()
            await receive_some(stream)
            if answer:
                await send(stream, answer)
            await receive_until_end(stream)

    context = tls_context(Proof.of(svid("b")), protocols=protocols)
    nursery.start_soon(serve_tunnels, mesh.destination, context, behaviour)


@pytest.mark.parametrize(
    ("answer", "reason", "detail"),
    [
        (b"HTTP/1.1 401 x\r\n\r\n", Reason.DENIED_BY_PEER, "the destination's policy refused it"),
        (b"HTTP/1.1 503 x\r\n\r\n", Reason.DESTINATION_REFUSED, "application cannot be reached"),
        (b"HTTP/1.1 400 x\r\n\r\n", Reason.NOT_A_TUNNEL_REQUEST, "did not take the request"),
        (b"HTTP/1.1 302 x\r\nLocation: /\r\n\r\n", Reason.NOT_A_TUNNEL_REQUEST, "HTTP status 302"),
        (b"HTTP/1.1 100 x\r\n\r\n", Reason.NOT_A_TUNNEL_REQUEST, ""),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Reason.NOT_A_TUNNEL_REQUEST, "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 20000, Reason.NOT_A_TUNNEL_REQUEST, "the answer is not HTTP"),
    ],
)
async def test_answer_that_opens_no_tunnel_is_told_apart(
    mesh: Mesh, nursery: trio.Nursery, answer: bytes, reason: Reason, detail: str
) -> None:
    await tunnel_answer(mesh, nursery, answer)
    await refused(mesh, reason, detail)


async def test_first_bytes_that_came_with_the_answer_reach_the_application(
    mesh: Mesh, nursery: trio.Nursery
) -> None:
    await tunnel_answer(mesh, nursery, ANSWER + b"SSH-2.0-OpenSSH\r\n")
    async with await mesh.connect() as client:
        assert await client.receive_some(100) == b"SSH-2.0-OpenSSH\r\n"
    record = await mesh.source.recorder.only_record()
    assert (record.verdict, record.bytes_received) == ("permit", 17)


async def test_destination_that_leaves_instead_of_answering_is_told(
    mesh: Mesh, nursery: trio.Nursery
) -> None:
    mesh.source.start(nursery)
    mesh.aim = Endpoint(DESTINATION_ADDRESS, 80)

    async def behaviour(stream: TlsStream) -> None:
        await stream.handshake()
        stream.abort()

    nursery.start_soon(serve_tunnels, mesh.destination, tls_context(Proof.of(svid("b"))), behaviour)
    await refused(mesh, Reason.HANDSHAKE_FAILED, "Connection reset by peer")


async def test_destination_that_leaves_in_the_handshake_is_told(mesh: Mesh, nursery: trio.Nursery) -> None:
    mesh.source.start(nursery)
    mesh.aim = Endpoint(DESTINATION_ADDRESS, 80)

    async def behaviour(stream: TlsStream) -> None:
        stream.close()

    nursery.start_soon(serve_tunnels, mesh.destination, tls_context(Proof.of(svid("b"))), behaviour)
    await refused(mesh, Reason.HANDSHAKE_FAILED, "the destination's proxy went away")


async def test_destination_whose_tunnel_port_is_closed_is_refused(
    running: Mesh, nursery: trio.Nursery
) -> None:
    running.destination.tunnel.shutdown(socket.SHUT_RDWR)
    running.aim = Endpoint(DESTINATION_ADDRESS, 80)
    await refused(running, Reason.DESTINATION_REFUSED, "refused the connection")


# Faults on our side.


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)),
        KernelError("cannot enter network namespace x: Too many open files"),
    ],
)
async def test_no_socket_left_is_a_refusal_and_no_fault(
    mesh: Mesh, nursery: trio.Nursery, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def open_socket(_: int) -> socket.socket:
        raise error

    mesh.source.change(open_socket=open_socket)
    mesh.start(nursery)
    mesh.aim = Endpoint(DESTINATION_ADDRESS, 80)
    await refused(mesh, Reason.RESOURCES_EXHAUSTED, str(error))
    assert caplog.records == []


async def test_fault_in_one_connection_leaves_the_others_alone(
    mesh: Mesh, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    def original_destination(_: socket.socket) -> Endpoint | None:
        if mesh.aim is None:
            raise RuntimeError("a bug of ours")
        return mesh.aim

    mesh.source.change(original_destination=original_destination)
    mesh.start(nursery)
    async with await mesh.connect() as client:
        assert await is_reset(client)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "default/a was reset by an internal error" in caplog.text
    caplog.clear()
    mesh.aim = await serve_application(nursery, echo)
    async with await mesh.connect() as client:
        await client.send_eof()
        assert await receive_all(client) == b""
    await mesh.source.recorder.wait_closed(2)
