"""Two workloads and their proxies on loopback: real sockets and real TLS, without kernel capture.

What the agent would hand in (sockets in a namespace, original destinations, a
recorder) is handed in here; everything else is the product's.
"""

from __future__ import annotations

import dataclasses
import socket
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import trio

from interceptor.enrolment.departed import Departed
from interceptor.enrolment.registry import Registry
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import AddressCheck, PolicySet
from interceptor.proxy.connections import HandshakeLimit, LiveConnections
from interceptor.proxy.context import Limits, WorkloadContext
from interceptor.proxy.snapshot import Snapshot
from interceptor.proxy.workload_proxy import WorkloadProxy
from interceptor.transport.tls import TlsContexts, tls_contexts
from interceptor.workload import Endpoint, Workload, WorkloadKey
from tests.proxy import certificates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from interceptor.telemetry.connection_record import ConnectionRecord

# All of 127.0.0.0/8 is local, so that an ordinary socket can play the transparent one.
SOURCE_ADDRESS, DESTINATION_ADDRESS = ip_address("127.0.0.2"), ip_address("127.0.0.1")
IPV6_ADDRESS = ip_address("::1")
DEADLINE_SECONDS = 10.0  # for what takes milliseconds; a test never waits this long unless it fails
LIMITS = Limits(
    unknown_destination_wait=0.2,
    handshake_timeout=5.0,
    connect_timeout=5.0,
    connections_per_workload=1000,
    pending_handshakes=100,
)


@dataclass
class Recorder:
    """Keeps what it is told, and checks that each record is told of once and finished."""

    opened_records: list[ConnectionRecord] = field(default_factory=list)
    closed_records: list[ConnectionRecord] = field(default_factory=list)
    handshakes: list[str] = field(default_factory=list)
    changed: Snapshot[int] = field(default_factory=lambda: Snapshot(0))

    def opened(self, record: ConnectionRecord) -> None:
        assert record not in self.opened_records
        self.opened_records.append(record)
        self.changed.replace(len(self.opened_records))

    def closed(self, record: ConnectionRecord) -> None:
        assert record not in self.closed_records
        assert record.is_finished
        self.closed_records.append(record)
        self.changed.replace(len(self.closed_records))

    def handshake(self, side: str, seconds: float) -> None:
        assert seconds >= 0
        self.handshakes.append(side)

    async def wait_closed(self, count: int = 1) -> list[ConnectionRecord]:
        """The finished records, once there are `count` of them."""
        with trio.fail_after(DEADLINE_SECONDS):
            while len(self.closed_records) < count:
                await self.changed.wait_changed()
        assert len(self.closed_records) == count
        return self.closed_records

    async def only_record(self) -> ConnectionRecord:
        return (await self.wait_closed())[0]

    async def wait_opened(self, count: int = 1) -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            while len(self.opened_records) < count:
                await self.changed.wait_changed()


class Side:
    """One workload with its context, its listeners and, once started, its proxy."""

    def __init__(self, workload: Workload, mesh: Mesh, address: Any) -> None:
        self.workload = workload
        self.recorder = Recorder()
        self.sockets: list[socket.socket] = []
        self._address = str(address)
        contexts = tls_contexts(certificates.svid(workload.service_account), mesh.bundles)
        tls: Snapshot[TlsContexts | None] = Snapshot(contexts)
        self.context = WorkloadContext(
            subject=Snapshot(workload),
            policy=mesh.policy,
            registry=mesh.registry,
            departed=mesh.departed,
            tls=tls,
            live=LiveConnections(workload.key, LIMITS.connections_per_workload, self.recorder),
            handshakes=HandshakeLimit(LIMITS.pending_handshakes),
            recorder=self.recorder,
            limits=LIMITS,
            open_socket=self._open_socket,
            open_transparent_socket=self._open_transparent_socket,
            original_destination=lambda _: mesh.aim,
            now=certificates.now,
        )
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        self.outbound, self.plaintext, self.tunnel = (listening(self._address, family) for _ in range(3))

    def change(self, **changes: Any) -> None:
        """Replace fields of the context, before the proxy is started."""
        self.context = dataclasses.replace(self.context, **changes)

    def limit(self, **changes: Any) -> None:
        self.change(limits=dataclasses.replace(self.context.limits, **changes))

    def proxy(self) -> WorkloadProxy:
        return WorkloadProxy(
            self.context,
            outbound_listeners=[self.outbound],
            plaintext_listeners=[self.plaintext],
            tunnel_listeners=[self.tunnel],
        )

    def start(self, nursery: trio.Nursery) -> WorkloadProxy:
        proxy = self.proxy()
        nursery.start_soon(proxy.run)
        return proxy

    def _open_transparent_socket(self, family: int) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.sockets.append(sock)
        return sock

    def _open_socket(self, family: int) -> socket.socket:
        sock = self._open_transparent_socket(family)
        sock.bind((self._address, 0))  # as in a namespace whose only address this is
        return sock


class Mesh:
    """Source and destination, one registry, one policy; `aim` is where captured connections were meant to go."""

    def __init__(self, mode: MtlsMode = MtlsMode.STRICT, *, ipv6: bool = False) -> None:
        self.bundles = certificates.bundles()
        # Everybody is on loopback here and connects from any of its addresses, also from another one's.
        self.policy = Snapshot(PolicySet(mode, address_check=AddressCheck.FLAG))
        self.aim: Endpoint | None = None
        # IPv6 has one loopback address only: there, both connect from it.
        local = (IPV6_ADDRESS, IPV6_ADDRESS) if ipv6 else (SOURCE_ADDRESS, DESTINATION_ADDRESS)
        a = Workload(WorkloadKey("default", "a"), certificates.identity("a"), (SOURCE_ADDRESS,), "here")
        b = Workload(WorkloadKey("default", "b"), certificates.identity("b"), (local[1],), "here")
        self.departed = Departed()
        self.registry = Snapshot(Registry.empty().with_workload(a).with_workload(b))
        self.source = Side(a, self, local[0])
        self.destination = Side(b, self, local[1])

    def start(self, nursery: trio.Nursery) -> None:
        self.source.start(nursery)
        self.destination.start(nursery)

    async def connect(self) -> trio.SocketStream:
        """As a captured application does."""
        host, port = self.source.outbound.getsockname()[:2]
        return await trio.open_tcp_stream(host, port)

    async def connect_plaintext(self) -> trio.SocketStream:
        """As somebody outside of the mesh does, who meant the destination's application."""
        host, port = self.destination.plaintext.getsockname()[:2]
        return await trio.open_tcp_stream(host, port)

    async def records(self) -> tuple[ConnectionRecord, ConnectionRecord]:
        """The one finished record of each side, source first."""
        return await self.source.recorder.only_record(), await self.destination.recorder.only_record()


def listening(host: str, family: int = socket.AF_INET) -> socket.socket:
    """A listening, non-blocking socket on a free port."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, 0))
    sock.listen(128)
    return sock


async def receive_all(stream: trio.SocketStream) -> bytes:
    """Everything until the clean end; trio.BrokenResourceError upon a reset."""
    received = bytearray()
    with trio.fail_after(DEADLINE_SECONDS):
        async for data in stream:
            received += data
    return bytes(received)


async def is_reset(stream: trio.SocketStream) -> bool:
    """Whether the connection ends by a reset, and not by a clean end."""
    try:
        await receive_all(stream)
    except trio.BrokenResourceError:
        return True
    return False


async def serve_application(
    nursery: trio.Nursery, handler: Callable[[trio.SocketStream], Awaitable[None]], host: str = "127.0.0.1"
) -> Endpoint:
    """Start an application; it runs until the nursery ends."""
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    await nursery.start(trio.serve_listeners, handler, [listener])
    address, port = listener.socket.getsockname()[:2]
    return Endpoint(ip_address(address), port)


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes, until it ends."""
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


def reset(stream: trio.SocketStream) -> None:
    """End a connection as a crashing program does."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    stream.socket.close()
