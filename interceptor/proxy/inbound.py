"""Inbound: a tunnel from another workload's proxy, to the application of ours."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import trio

from interceptor.errors import PeerRejected
from interceptor.policy.policy_set import InboundAttempt
from interceptor.policy.verdict import Reason
from interceptor.protocol.connect_tunnel import Status, TunnelProtocolError, TunnelServer, is_target
from interceptor.proxy import application
from interceptor.proxy.dial import local_endpoint, peer_endpoint
from interceptor.proxy.refusal import Refusal, refusal_of, require_permit
from interceptor.proxy.relay import Relay
from interceptor.transport.sockets import tune
from interceptor.transport.streams import PlainStream, StreamBroken, abort_socket
from interceptor.transport.tls import RECORD_BYTES, TlsStream
from interceptor.workload import Direction

if TYPE_CHECKING:
    import socket

    from interceptor.protocol.connect_tunnel import TunnelRequest
    from interceptor.proxy.context import WorkloadContext
    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.transport.tls import TlsContexts

FAREWELL_SECONDS = 0.5  # for a peer that does not read; its connection ends all the same
_REFUSAL_STATUS = {
    Reason.DESTINATION_REFUSED: Status.UNREACHABLE,
    Reason.DESTINATION_TIMEOUT: Status.UNREACHABLE,
    Reason.DESTINATION_UNREACHABLE: Status.UNREACHABLE,
    Reason.RESOURCES_EXHAUSTED: Status.UNREACHABLE,
    Reason.NOT_A_TUNNEL_REQUEST: Status.NOT_A_TUNNEL_REQUEST,
    Reason.AUTHORITY_MISMATCH: Status.NOT_A_TUNNEL_REQUEST,
}


async def handle(peer: socket.socket, context: WorkloadContext) -> None:
    """Serve one tunnel connection: prove who it is, ask policy, connect to the application, carry bytes."""
    record = context.begin(Direction.INBOUND)
    record.destination_workload = context.workload
    record.destination_identity = context.workload.identity
    with ExitStack() as cleanup:
        cleanup.callback(abort_socket, peer)  # harmless once it is closed
        with context.live.track(record):
            record.source = peer_endpoint(peer)
            tune(peer)
            contexts = await context.tls_contexts(record)
            stream = TlsStream(contexts.server, peer, server_side=True)
            server = TunnelServer()
            request = await _receive_request(stream, server, contexts, context, record)
            try:
                upstream = await _reach_application(request, peer, context, record)
            except Refusal as refusal:
                await _answer(stream, server, _REFUSAL_STATUS.get(refusal.reason, Status.DENIED))
                stream.close()
                raise
            except trio.Cancelled:
                if context.live.is_denied(record):
                    await _answer_late(stream, server)
                raise
            cleanup.callback(abort_socket, upstream)
            await _answer(stream, server, Status.ESTABLISHED)
            context.recorder.opened(record)
            relay = Relay(stream, PlainStream(upstream), record)
            await relay.run()
            record.closed_by, record.close_kind = relay.closed_by, relay.close_kind


async def _receive_request(
    stream: TlsStream,
    server: TunnelServer,
    contexts: TlsContexts,
    context: WorkloadContext,
    record: ConnectionRecord,
) -> TunnelRequest:
    with context.handshakes.one(), trio.move_on_after(context.limits.handshake_timeout):
        started = trio.current_time()
        await _prove_identity(stream, contexts, context, record)
        context.recorder.handshake("server", trio.current_time() - started)
        buffer = memoryview(bytearray(RECORD_BYTES))
        try:
            while True:
                received = await stream.receive_into(buffer)
                request = server.receive(bytes(buffer[:received]))
                if request is not None:
                    record.trace_id = request.trace_id or record.trace_id
                    return request
        except StreamBroken as broken:
            raise Refusal(Reason.HANDSHAKE_FAILED, f"the peer went away: {broken}") from broken
        except TunnelProtocolError as error:
            await _answer(stream, server, Status.NOT_A_TUNNEL_REQUEST)
            raise Refusal(Reason.NOT_A_TUNNEL_REQUEST, str(error)) from error
    raise Refusal(Reason.HANDSHAKE_TIMEOUT, "the peer did not finish its handshake")


async def _prove_identity(
    stream: TlsStream, contexts: TlsContexts, context: WorkloadContext, record: ConnectionRecord
) -> None:
    try:
        await stream.handshake()
        identity = context.identify(stream, contexts, record)
    except PeerRejected as rejected:
        raise refusal_of(rejected) from rejected
    except StreamBroken as broken:
        raise Refusal(Reason.HANDSHAKE_FAILED, f"the peer went away: {broken}") from broken
    stream.note_parameters(record)
    if not stream.speaks_tunnel():
        raise Refusal(Reason.NOT_A_TUNNEL_REQUEST, "the peer does not offer http/1.1 by ALPN")
    assert record.source is not None
    workload = context.registry.value.by_address(record.source.address)
    if workload is not None and workload.identity == identity:
        record.source_workload = workload


async def _reach_application(
    request: TunnelRequest, peer: socket.socket, context: WorkloadContext, record: ConnectionRecord
) -> socket.socket:
    record.destination = request.target
    local = local_endpoint(peer).address
    if not is_target(request, local):
        raise Refusal(Reason.AUTHORITY_MISMATCH, f"it asked for {request.target}, and reached {local}")
    identity = context.canonical(record.source_identity)
    assert record.source is not None
    assert identity is not None
    address = record.source.address
    holder = await context.find_holder(address, identity)
    if holder is not None and holder.identity == identity:
        record.source_workload = holder
    attempt = InboundAttempt(context.workload, request.target, address, identity, holder, context.timestamp())
    permit = require_permit(context.policy.value.decide_inbound(attempt), record)
    return await application.connect(permit, request.target, record.source.address, context)


async def _answer_late(stream: TlsStream, server: TunnelServer) -> None:
    """Denied while the application was waited for: the peer still waits for an answer, and would take a reset for a fault."""
    with trio.CancelScope(shield=True) as scope, suppress(Refusal):
        scope.deadline = trio.current_time() + FAREWELL_SECONDS
        await _answer(stream, server, Status.DENIED)
        stream.close()


async def _answer(stream: TlsStream, server: TunnelServer, status: Status) -> None:
    try:
        if data := server.answer(status):
            await stream.send_all(memoryview(data))
        if status is not Status.ESTABLISHED:
            await stream.finish_sending()
    except StreamBroken as broken:
        raise Refusal(Reason.HANDSHAKE_FAILED, f"the peer went away: {broken}") from broken
