"""Inbound plaintext: a connection that came without a tunnel; it has no identity, and the mode decides."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from interceptor.policy.policy_set import InboundAttempt
from interceptor.proxy import application
from interceptor.proxy.dial import local_endpoint, peer_endpoint
from interceptor.proxy.refusal import require_permit
from interceptor.proxy.relay import Relay
from interceptor.transport.sockets import tune
from interceptor.transport.streams import PlainStream, abort_socket
from interceptor.workload import Direction

if TYPE_CHECKING:
    import socket

    from interceptor.proxy.context import WorkloadContext


async def handle(peer: socket.socket, context: WorkloadContext) -> None:
    """Reset it (STRICT), or relay it to the application as it is (PERMISSIVE, DISABLE)."""
    record = context.begin(Direction.INBOUND)
    record.destination_workload = context.workload
    with ExitStack() as cleanup:
        cleanup.callback(abort_socket, peer)  # harmless once it is closed
        with context.live.track(record):
            source = record.source = peer_endpoint(peer)
            destination = record.destination = local_endpoint(peer)
            attempt = InboundAttempt(
                context.workload, destination, source.address, source_identity=None, at=context.timestamp()
            )
            permit = require_permit(context.policy.value.decide_inbound(attempt), record)
            upstream = await application.connect(permit, destination, source.address, context)
            cleanup.callback(abort_socket, upstream)
            tune(peer)
            context.recorder.opened(record)
            relay = Relay(PlainStream(peer), PlainStream(upstream), record)
            await relay.run()
            record.closed_by, record.close_kind = relay.closed_by, relay.close_kind
