"""An authority that serves on loopback, nodes that join it, and a raw client that may send whatever it likes."""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import count
from typing import TYPE_CHECKING, Any

import trio
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from interceptor.authority.admission import AllowPattern
from interceptor.authority.documents import Issue
from interceptor.authority_client import AuthorityClient
from interceptor.authority_service import serve
from interceptor.authority_store import AuthorityStore
from interceptor.errors import PeerRejected
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.transport.streams import StreamBroken
from interceptor.transport.tls import RECORD_BYTES, TlsStream, new_context
from interceptor.workload import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from cryptography import x509

    from interceptor.identity.authority import Authority
    from interceptor.transport.tls import Proof

DOMAIN = TrustDomain("cluster.local")
DEADLINE_SECONDS = 10.0
ANYTHING = ("ns/*/sa/*",)
WEB = SpiffeId(DOMAIN, "default", "web")
_NONCES = count(10**16)


@dataclass
class Clock:
    """The machine's clock, set wrong by `off`."""

    off: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.off


@dataclass
class Service:
    """One authority; `start` serves it, again after `stop`."""

    directory: Path
    clock: Clock = field(default_factory=Clock)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.endpoint = Endpoint(ip_address("127.0.0.1"), free_port())
        AuthorityStore.create(self.directory / "authority", DOMAIN, self.clock()).close()
        self.store = self.open_store()
        self._clients: list[AuthorityClient] = []
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    def open_store(self) -> AuthorityStore:
        """As another process does, such as a command of `interceptor ca`."""
        return AuthorityStore.open(self.directory / "authority", self.clock())

    @property
    def audit_path(self) -> Path:
        return self.directory / "audit.jsonl"

    def audit(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines of the audit so far, without those of the service's own certificate."""
        lines = [json.loads(line) for line in self.audit_path.read_text().splitlines()]
        nodes = [line for line in lines if line["request"] != "own certificate"]
        return [line for line in nodes if event in (None, line["event"])]

    @property
    def issuer(self) -> Authority:
        return self.store.issuer(self.clock())

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        return self.store.trust_document().trust_bundles().bundles[DOMAIN].roots

    async def start(self, nursery: trio.Nursery) -> None:
        started = trio.Event()
        self._scope, self._stopped = trio.CancelScope(), trio.Event()

        async def run() -> None:
            try:
                with self._scope:
                    await serve(
                        self.store,
                        self.endpoint,
                        audit_path=self.audit_path,
                        now=self.clock,
                        ready=lambda _: started.set(),
                        **self.options,
                    )
            finally:
                self._stopped.set()

        nursery.start_soon(run)
        with trio.fail_after(DEADLINE_SECONDS):
            await started.wait()

    async def stop(self) -> None:
        self._scope.cancel()
        await self._stopped.wait()

    def token(
        self, node: str, allow: Sequence[str] = ANYTHING, ttl: timedelta = timedelta(minutes=10)
    ) -> str:
        patterns = tuple(AllowPattern.parse(text) for text in allow)
        return self.store.create_token(node, ttl, patterns, self.clock())

    def client(self, node: str, clock: Clock | None = None) -> AuthorityClient:
        client = AuthorityClient(self.endpoint, DOMAIN, node, clock or self.clock)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Close what the clients keep, and the store."""
        for client in self._clients:
            client.close()
        self.store.close()

    async def joined(
        self, node: str, allow: Sequence[str] = ANYTHING, clock: Clock | None = None
    ) -> AuthorityClient:
        client = self.client(node, clock)
        with trio.fail_after(DEADLINE_SECONDS):
            await client.join(self.token(node, allow))
        return client


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


class Raw:
    """A TLS client that speaks HTTP by hand."""

    def __init__(self, stream: TlsStream) -> None:
        self.stream = stream

    async def send(self, data: bytes) -> None:
        with trio.fail_after(DEADLINE_SECONDS):
            await self.stream.send_all(memoryview(data))

    async def receive_all(self) -> bytes:
        """Until the end, however it comes."""
        received, buffer = bytearray(), memoryview(bytearray(RECORD_BYTES))
        with trio.fail_after(DEADLINE_SECONDS), suppress(StreamBroken):
            while size := await self.stream.receive_into(buffer):
                received += buffer[:size]
        return bytes(received)

    async def receive_answer(self) -> tuple[int, dict[str, Any]]:
        """One answer, on a connection that may stay open."""
        received, buffer = bytearray(), memoryview(bytearray(RECORD_BYTES))
        with trio.fail_after(DEADLINE_SECONDS):
            while True:
                head, end, body = bytes(received).partition(b"\r\n\r\n")
                lines = head.decode().split("\r\n")
                lengths = [int(line[15:]) for line in lines if line.lower().startswith("content-length:")]
                if end and len(body) >= (lengths or [0])[0]:
                    return int(lines[0].split()[1]), json.loads(body) if body else {}
                size = await self.stream.receive_into(buffer)
                assert size, "the end came before the answer"
                received += buffer[:size]

    async def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
        await self.send(request(method, target, body))
        return await self.receive_answer()


def request(method: str, target: str, body: bytes = b"") -> bytes:
    head = f"{method} {target} HTTP/1.1\r\nHost: authority\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def raw(
    service: Service, proof: Proof | None, *, version: int = SSL.TLS1_3_VERSION
) -> AsyncIterator[Raw]:
    """A connection after its handshake, showing `proof`.  PeerRejected or StreamBroken when there is none."""
    context = new_context(service.roots, proof, server_side=False)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    with socket.create_connection((str(service.endpoint.address), service.endpoint.port)) as sock:
        sock.setblocking(False)
        stream = TlsStream(context, sock, server_side=False)
        with trio.fail_after(DEADLINE_SECONDS):
            await stream.handshake()
        yield Raw(stream)


async def refusal(
    service: Service, proof: Proof | None, method: str, target: str, body: bytes = b""
) -> tuple[str, str]:
    """The code and the message with which one request is refused; the last line of the audit has them too."""
    async with raw(service, proof) as client:
        status, answer = await client.ask(method, target, body)
    assert status >= 400, answer
    last = service.audit("refused")[-1]
    assert (last["code"], last["message"]) == (answer["code"], answer["message"])
    assert answer["message"].isprintable()
    return answer["code"], answer["message"]


async def is_sent_away(service: Service, proof: Proof | None) -> bool:
    """Whether the handshake fails; in TLS 1.3 the client learns it after its own part."""
    try:
        async with raw(service, proof) as client:
            assert await client.ask("GET", "/healthz") == (200, {"status": "ok"})
            return False
    except (PeerRejected, StreamBroken):
        return True


def pem(csr: x509.CertificateSigningRequest) -> str:
    return csr.public_bytes(Encoding.PEM).decode("ascii")


def fresh(service: Service) -> dict[str, Any]:
    """What makes a request one of now."""
    return {"at": service.clock(), "nonce": f"nonce-{next(_NONCES)}"}


def issue_body(
    service: Service, csr_pem: str, spiffe_id: object = WEB, lifetime: int = 3600, **changes: Any
) -> bytes:
    return Issue(str(spiffe_id), csr_pem, lifetime, **{**fresh(service), **changes}).to_json()
