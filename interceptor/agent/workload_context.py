"""Give one workload's proxy what it needs, and no more: snapshots, limits, and sockets in its namespace."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interceptor.errors import InvalidInput, KernelError
from interceptor.kernel import sockets
from interceptor.proxy.connections import HandshakeLimit, LiveConnections
from interceptor.proxy.context import Limits, WorkloadContext
from interceptor.proxy.route import as_it_is
from interceptor.proxy.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from interceptor.agent.records import Records
    from interceptor.config import Config
    from interceptor.enrolment.departed import Departed
    from interceptor.enrolment.registry import Registry
    from interceptor.kernel.capture import Capture
    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.policy.policy_set import PolicySet
    from interceptor.proxy.route import Locate
    from interceptor.transport.tls import TlsContexts
    from interceptor.workload import Endpoint, Workload


@dataclass(frozen=True, slots=True)
class Shared:
    """What all workloads of a node have in common."""

    config: Config
    capture: Capture
    records: Records
    policy: Snapshot[PolicySet]
    registry: Snapshot[Registry]
    departed: Departed
    now: Callable[[], datetime]
    locate: Locate = as_it_is


def workload_context(workload: Workload, netns: NetworkNamespace, shared: Shared) -> WorkloadContext:
    """Everything that the connections of one workload need."""

    def open_socket(family: int) -> socket.socket:
        with ExitStack() as undo:
            sock = undo.enter_context(netns.open_socket(family, socket.SOCK_STREAM))
            shared.capture.exempt(sock)
            undo.pop_all()
        return sock

    def open_transparent_socket(family: int) -> socket.socket:
        with ExitStack() as undo:
            sock = undo.enter_context(open_socket(family))
            sockets.make_transparent(sock)
            undo.pop_all()
        return sock

    limits = shared.config.limits
    tls: Snapshot[TlsContexts | None] = Snapshot(None)
    return WorkloadContext(
        subject=Snapshot(workload),
        policy=shared.policy,
        registry=shared.registry,
        departed=shared.departed,
        tls=tls,
        live=LiveConnections(workload.key, limits.connections_per_workload, shared.records),
        handshakes=HandshakeLimit(limits.pending_handshakes),
        recorder=shared.records,
        limits=Limits(
            unknown_destination_wait=limits.unknown_destination_wait.total_seconds(),
            handshake_timeout=limits.handshake_timeout.total_seconds(),
            connect_timeout=limits.connect_timeout.total_seconds(),
            connections_per_workload=limits.connections_per_workload,
            pending_handshakes=limits.pending_handshakes,
        ),
        open_socket=open_socket,
        open_transparent_socket=open_transparent_socket,
        original_destination=original_destination,
        now=shared.now,
        locate=shared.locate,
    )


def original_destination(sock: socket.socket) -> Endpoint | None:
    """Where the application meant to connect, for a socket that the proxy accepted; None if nobody can be meant."""
    try:
        return sockets.original_destination(sock)
    except (InvalidInput, KernelError):
        return None  # port 0, for one: nobody can be meant
