"""Outbound: a captured connection of a workload, into a tunnel to the destination's proxy."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import trio

from interceptor.errors import PeerRejected
from interceptor.policy.policy_set import OutboundAttempt
from interceptor.policy.verdict import Denial, Permit, Reason, Transport
from interceptor.protocol.connect_tunnel import Status, TunnelClient, TunnelProtocolError
from interceptor.proxy import dial
from interceptor.proxy.context import permit_to_itself
from interceptor.proxy.refusal import Refusal, refusal_of, require_permit
from interceptor.proxy.relay import Relay
from interceptor.proxy.route import Way
from interceptor.transport.sockets import tune
from interceptor.transport.streams import PlainStream, StreamBroken, abort_socket
from interceptor.transport.tls import RECORD_BYTES, TlsStream
from interceptor.workload import Direction, Endpoint

if TYPE_CHECKING:
    import socket

    from interceptor.policy.verdict import Verdict
    from interceptor.proxy.context import WorkloadContext
    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.transport.streams import ByteStream
    from interceptor.transport.tls import TlsContexts
    from interceptor.workload import Workload

TUNNEL_PORT = 15008

_STATUS_REASONS: dict[int, tuple[Reason, str]] = {
    Status.DENIED: (Reason.DENIED_BY_PEER, "the destination's policy refused it"),
    Status.UNREACHABLE: (Reason.DESTINATION_REFUSED, "the destination's application cannot be reached"),
    Status.NOT_A_TUNNEL_REQUEST: (Reason.NOT_A_TUNNEL_REQUEST, "the destination did not take the request"),
}


async def handle(application: socket.socket, context: WorkloadContext) -> None:
    """Carry one accepted connection to where the application meant to connect, or reset it."""
    record = context.begin(Direction.OUTBOUND)
    record.source_workload = context.workload
    record.source_identity = context.workload.identity
    with ExitStack() as cleanup:
        cleanup.callback(abort_socket, application)  # harmless once it is closed
        with context.live.track(record):
            record.source = _as_others_see_it(dial.peer_endpoint(application), context)
            destination = context.original_destination(application)
            if destination is None:
                raise Refusal(Reason.NO_ORIGINAL_DESTINATION)
            record.destination = destination
            destination = await _locate(destination, context, record)
            permit = require_permit(await _decide(destination, context, record), record)
            workload = record.destination_workload
            stream, first_bytes = await _open(permit, destination, workload, context, record, cleanup)
            tune(application)
            context.recorder.opened(record)
            source = PlainStream(application)
            await _deliver(first_bytes, source, record)
            relay = Relay(source, stream, record)
            await relay.run()
            record.closed_by, record.close_kind = relay.closed_by, relay.close_kind


async def _locate(destination: Endpoint, context: WorkloadContext, record: ConnectionRecord) -> Endpoint:
    """Where it leads; for a service, to whom. Waits a bounded time for somebody to serve it."""
    assert record.source is not None
    client = record.source.address
    route = context.locate(destination, client)
    with trio.move_on_after(context.limits.unknown_destination_wait):
        while route.way is Way.NOBODY_NOW:
            await context.registry.wait_changed()
            route = context.locate(destination, client)
    if route.way is Way.NOBODY_NOW:
        detail = f"service {route.service} has nobody who may serve it now"
        require_permit(Denial(Reason.UNKNOWN_DESTINATION, detail), record)
    if route.way is Way.NO_SUCH_PORT:
        detail = f"service {route.service} has no port {destination.port}"
        raise Refusal(Reason.DESTINATION_REFUSED, detail)
    record.destination, record.is_outside = route.endpoint, route.way is Way.OUTSIDE
    return route.endpoint


async def _decide(destination: Endpoint, context: WorkloadContext, record: ConnectionRecord) -> Verdict:
    """Ask policy; when that fails because nobody is known to have the address, wait for somebody, and ask again."""

    def ask(workload: Workload | None) -> Verdict:
        record.destination_workload = workload
        attempt = OutboundAttempt(
            context.workload, destination, workload, context.timestamp(), record.is_outside
        )
        return permit_to_itself(attempt) or context.policy.value.decide_outbound(attempt)

    verdict = ask(context.registry.value.by_address(destination.address))
    if isinstance(verdict, Denial) and verdict.reason is Reason.UNKNOWN_DESTINATION:
        return ask(await context.find_workload(destination.address))
    return verdict


def _as_others_see_it(source: Endpoint, context: WorkloadContext) -> Endpoint:
    """The application's end with the workload's address: one that chose its port itself comes from that of loopback."""
    workload = context.registry.value.get(context.workload.key) or context.workload
    same_family = (a for a in workload.addresses if a.version == source.address.version)
    own = next((a for a in same_family if not a.is_link_local), None)
    return Endpoint(own, source.port) if source.address.is_loopback and own is not None else source


async def _open(
    permit: Permit,
    destination: Endpoint,
    workload: Workload | None,
    context: WorkloadContext,
    record: ConnectionRecord,
    cleanup: ExitStack,
) -> tuple[ByteStream, bytes]:
    """The stream to the destination, and what came from its application together with the tunnel's answer."""
    upstream = dial.open_socket(context.open_socket, destination.address)
    cleanup.callback(abort_socket, upstream)
    if permit.transport is Transport.PLAINTEXT:
        await dial.connect(upstream, destination, context.limits.connect_timeout)
        return PlainStream(upstream), b""
    assert workload is not None, "whoever is reached by mutual TLS is known"
    contexts = await context.tls_contexts(record)
    _require_believed(workload, contexts)
    tunnel = Endpoint(destination.address, TUNNEL_PORT)
    await dial.connect(upstream, tunnel, context.limits.connect_timeout)
    stream = TlsStream(contexts.client, upstream, server_side=False)
    started = trio.current_time()
    with trio.move_on_after(context.limits.handshake_timeout) as scope:
        await _handshake(stream, contexts, workload, context, record)
        context.recorder.handshake("client", trio.current_time() - started)
    if scope.cancelled_caught:
        raise Refusal(Reason.HANDSHAKE_TIMEOUT, f"{tunnel} did not finish its handshake")
    # Longer than the handshake's: the other side connects to the application meanwhile.
    seconds = context.limits.handshake_timeout + context.limits.connect_timeout
    with trio.move_on_after(seconds) as scope:
        first_bytes = await _request(stream, destination, record)
    if scope.cancelled_caught:
        raise Refusal(Reason.HANDSHAKE_TIMEOUT, f"{tunnel} did not answer the tunnel request")
    return stream, first_bytes


def _require_believed(workload: Workload, contexts: TlsContexts) -> None:
    """Raise Refusal for a destination whose identity is revoked: its own node resets us, which would say nothing."""
    try:
        contexts.bundles.require_not_revoked(workload.identity, ())
    except PeerRejected as rejected:
        raise refusal_of(rejected) from rejected


async def _handshake(
    stream: TlsStream,
    contexts: TlsContexts,
    workload: Workload,
    context: WorkloadContext,
    record: ConnectionRecord,
) -> None:
    try:
        await stream.handshake()
        identity = context.identify(stream, contexts, record)
    except PeerRejected as rejected:
        raise refusal_of(rejected) from rejected
    except StreamBroken as broken:
        raise Refusal(Reason.HANDSHAKE_FAILED, f"the destination's proxy went away: {broken}") from broken
    stream.note_parameters(record)
    if identity != workload.identity:
        raise Refusal(
            Reason.IDENTITY_MISMATCH,
            f"the registry expects {workload.identity}, the destination proved {identity}",
        )
    if not stream.speaks_tunnel():
        raise Refusal(Reason.NOT_A_TUNNEL_REQUEST, "the destination's proxy does not speak http/1.1 tunnels")


async def _request(stream: TlsStream, destination: Endpoint, record: ConnectionRecord) -> bytes:
    handshake = TunnelClient()
    request = handshake.request(
        destination, source=record.source, trace_id=record.trace_id, span_id=record.id
    )
    buffer = memoryview(bytearray(RECORD_BYTES))
    answer = None
    try:
        await stream.send_all(memoryview(request))
        while answer is None:
            received = await stream.receive_into(buffer)
            answer = handshake.receive(bytes(buffer[:received]))
    except StreamBroken as broken:
        # In TLS 1.3 the client is done before the server has seen its certificate:
        # a refusal of ours arrives here, as an alert.
        raise Refusal(Reason.HANDSHAKE_FAILED, f"the destination's proxy refused us: {broken}") from broken
    except TunnelProtocolError as error:
        raise Refusal(Reason.NOT_A_TUNNEL_REQUEST, str(error)) from error
    if answer.status != Status.ESTABLISHED:
        raise Refusal(
            *_STATUS_REASONS.get(answer.status, (Reason.NOT_A_TUNNEL_REQUEST, f"HTTP status {answer.status}"))
        )
    return answer.early_data


async def _deliver(first_bytes: bytes, source: PlainStream, record: ConnectionRecord) -> None:
    """Hand the application what the other side was quick to send.  A source that left is the relay's to notice."""
    if first_bytes:
        with suppress(StreamBroken):
            await source.send_all(memoryview(first_bytes))
            record.bytes_received += len(first_bytes)
