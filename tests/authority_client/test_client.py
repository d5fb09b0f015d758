"""The client against servers that are no authority, lie, are slow, or go away: it believes nothing and says what is wrong."""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.authority.documents import Chain, ErrorBody
from interceptor.authority.node_documents import Joined, Renewed
from interceptor.authority.reports import NodeReport
from interceptor.authority.tokens import Token
from interceptor.authority_client import AuthorityClient, AuthorityRefusal
from interceptor.errors import AuthorityError, AuthorityUnavailable, PeerRejected
from interceptor.identity.authority import Authority
from interceptor.identity.certificates import fingerprint
from interceptor.identity.node_id import AuthorityId, NodeId
from interceptor.identity.revocation import RevocationList
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.svid import NodeSvid
from interceptor.identity.trust_document import TrustDocument
from interceptor.transport.infrastructure_tls import authority_context
from interceptor.transport.streams import StreamBroken
from interceptor.transport.tls import RECORD_BYTES, TlsStream
from interceptor.workload import Endpoint
from tests.authority_service.forged import Shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DOMAIN = TrustDomain("cluster.local")
HOUR = timedelta(hours=1)
WEB = SpiffeId(DOMAIN, "default", "web")
NODE = NodeId(DOMAIN, "node-a")
OURS, OTHER = (Authority.create(DOMAIN, datetime.now(UTC)) for _ in range(2))
DOCUMENT = TrustDocument(DOMAIN, (OURS.trust_bundle,), (), RevocationList.empty())


def now() -> datetime:
    return datetime.now(UTC)


def shown_by(issuer: Authority, identity: SpiffeId | NodeId | AuthorityId) -> Shown:
    key = create_private_key()
    chain = issuer.sign(create_signing_request(identity, key), identity, HOUR, now())
    return Shown((*chain, issuer.root), key)


def answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} ", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


class Server:
    """Answers each request with the next of `answers`; without one, it goes away."""

    def __init__(self, endpoint: Endpoint, shown: Shown) -> None:
        self.endpoint = endpoint
        self.shown = shown
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self.connections = 0

    async def handle(self, stream: trio.SocketStream) -> None:
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        with sock, suppress(StreamBroken, PeerRejected):
            tls = TlsStream(authority_context(self.shown, OURS.trust_bundle.roots), sock, server_side=True)
            await tls.handshake()
            self.connections += 1
            buffer = memoryview(bytearray(4 * RECORD_BYTES))
            while size := await tls.receive_into(buffer):
                self.requests.append(bytes(buffer[:size]))
                if not self.answers:
                    return
                await tls.send_all(memoryview(self.answers.pop(0)))


@asynccontextmanager
async def serving(shown: Shown) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = Server(Endpoint(ip_address("127.0.0.1"), listener.socket.getsockname()[1]), shown)
        await nursery.start(trio.serve_listeners, server.handle, [listener])
        yield server
        nursery.cancel_scope.cancel()


def joined(server: Server) -> AuthorityClient:
    """A client of a node that joined before."""
    client = AuthorityClient(server.endpoint, DOMAIN, "node-a", now)
    shown = shown_by(OURS, NODE)
    client.resume(NodeSvid(NODE, shown.chain[:-1], shown.private_key, now()), DOCUMENT)
    return client


async def sign(client: AuthorityClient) -> None:
    try:
        with trio.fail_after(5):
            await client.sign(create_signing_request(WEB, create_private_key()), WEB, HOUR)
    finally:
        client.close()


def token(root: Authority = OURS) -> str:
    return Token(fingerprint(root.root), "0" * 16, bytes(32)).text()


SERVICE = AuthorityId(DOMAIN)


# Who answers.


@pytest.mark.parametrize(
    ("issuer", "identity", "told"),
    [
        (OTHER, SERVICE, "its issuer is not in our trust bundle|its root is not in our trust bundle"),
        (OURS, WEB, "what answers is not the authority: .* names no authority"),
        (OURS, NODE, "what answers is not the authority: .* names no authority"),
    ],
)
async def test_server_that_is_not_the_authority_gets_no_request(
    issuer: Authority, identity: SpiffeId | NodeId | AuthorityId, told: str
) -> None:
    async with serving(shown_by(issuer, identity)) as server:
        with pytest.raises(AuthorityError, match=told):
            await sign(joined(server))
        assert server.requests == []


async def test_token_never_goes_to_a_server_without_its_root() -> None:
    async with serving(shown_by(OTHER, SERVICE)) as server:
        with pytest.raises(
            AuthorityError, match=r"is not the authority that made the token \(no root .*make another"
        ):
            await AuthorityClient(server.endpoint, DOMAIN, "node-a", now).join(token())
        assert server.requests == []


async def test_token_never_goes_to_a_server_that_only_shows_the_right_root() -> None:
    """The root is public: whoever has seen it can put it beside a chain of his own."""
    fake = shown_by(OTHER, SERVICE)
    async with serving(Shown((*fake.chain, OURS.root), fake.private_key)) as server:
        with pytest.raises(AuthorityError, match="not in our trust bundle"):
            await AuthorityClient(server.endpoint, DOMAIN, "node-a", now).join(token())
        assert server.requests == []


async def test_workload_of_the_same_mesh_cannot_collect_tokens() -> None:
    async with serving(shown_by(OURS, WEB)) as server:
        with pytest.raises(AuthorityError, match="what answers is not the authority"):
            await AuthorityClient(server.endpoint, DOMAIN, "node-a", now).join(token())
        assert server.requests == []


@pytest.mark.parametrize("text", ["", "it1.x", "it1." + "0" * 64 + "." + "0" * 16 + ".short"])
async def test_token_that_is_none_is_told_before_anything_is_asked(text: str) -> None:
    client = AuthorityClient(Endpoint(ip_address("127.0.0.1"), 1), DOMAIN, "node-a", now)
    with pytest.raises(AuthorityError, match="token"):
        await client.join(text)


# What it answers.


@pytest.mark.parametrize(
    ("reply", "error", "told"),
    [
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", AuthorityUnavailable, "speaks no HTTP"),
        (answer(500, b"<html>"), AuthorityUnavailable, "answered with HTTP status 500"),
        (answer(302, b"", "Location: https://evil"), AuthorityUnavailable, "answered with HTTP status 302"),
        (answer(200, b""), AuthorityError, "the authority's answer cannot be used: certificate chain"),
        (answer(200, b'{"certificates_pem":"x"}'), AuthorityError, "is not a list of PEM certificates"),
        (answer(200, b" " * 70_000), AuthorityUnavailable, "has more than 65536 bytes"),
        (b"HTTP/1.1 200 \r\nX: " + b"x" * 20_000, AuthorityUnavailable, "speaks no HTTP"),
        (
            answer(403, ErrorBody("identity_not_on_node", "no").to_json()),
            AuthorityRefusal,
            "^identity_not_on_node: no$",
        ),
        (answer(418, ErrorBody("of_the_future", "x").to_json()), AuthorityRefusal, "^of_the_future: x$"),
        (answer(429, ErrorBody("rate_limited", "x").to_json()), AuthorityUnavailable, "^rate_limited: x$"),
    ],
)
async def test_answer_that_is_no_certificate_is_told_in_one_line(
    reply: bytes, error: type[AuthorityError], told: str
) -> None:
    async with serving(shown_by(OURS, SERVICE)) as server:
        server.answers = [reply]
        with pytest.raises(error, match=told) as caught:
            await sign(joined(server))
    assert type(caught.value) is error
    assert str(caught.value).isprintable()


async def test_server_that_goes_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(shown_by(OURS, SERVICE)) as server:
        with pytest.raises(AuthorityUnavailable, match=r"the authority at 127\.0\.0\.1:\d+ went away: "):
            await sign(joined(server))


async def test_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from interceptor.authority_client import client as module

    monkeypatch.setattr(module, "Question", _hasty(module.Question))
    async with serving(shown_by(OURS, SERVICE)) as server:
        server.answers = [b"HTTP/1.1 200 \r\n"]
        with pytest.raises(AuthorityUnavailable, match=r"did not answer within 0\.2 s"):
            await sign(joined(server))


def _hasty(question: Callable[..., object]) -> Callable[..., object]:
    return lambda *arguments, **options: question(*arguments, **{**options, "seconds": 0.2})


async def test_request_goes_once_more_when_an_idle_connection_had_died() -> None:
    async with serving(shown_by(OURS, SERVICE)) as server:
        client = joined(server)
        refused = answer(403, ErrorBody("identity_not_on_node", "no").to_json())
        server.answers = [refused]
        for expected in (1, 2):
            with pytest.raises(AuthorityRefusal):
                await client.sign(create_signing_request(WEB, create_private_key()), WEB, HOUR)
            assert server.connections == expected
            # The next request on this connection makes the server leave; the one after it is answered.
            server.answers = [] if expected == 1 else [refused]
            if expected == 1:
                _answer_after(server, refused)
        client.close()
    nonces = [request.partition(b'"nonce":"')[2][:24] for request in server.requests]
    assert len(set(nonces)) == len(nonces) == 3


def _answer_after(server: Server, reply: bytes) -> None:
    """Let the next request find nobody, and the one after it `reply`."""

    class Once(list[bytes]):
        def __bool__(self) -> bool:
            asked = len(server.requests)
            return asked > 2

    server.answers = Once([reply])


async def test_chain_for_another_node_or_key_is_not_taken() -> None:
    other = shown_by(OURS, NodeId(DOMAIN, "node-b"))
    async with serving(shown_by(OURS, SERVICE)) as server:
        client = joined(server)
        before = client.svid
        server.answers = [answer(200, Renewed(Chain.of(other.chain[:-1])).to_json())]
        with pytest.raises(AuthorityError, match="the authority's answer cannot be used: certificate for"):
            await client.renew_node()
        assert client.svid is before
        client.close()


async def test_trust_document_of_another_domain_is_not_believed() -> None:
    foreign = Authority.create(TrustDomain("other.example"), now())
    document = TrustDocument(foreign.trust_domain, (foreign.trust_bundle,), (), RevocationList.empty())
    async with serving(shown_by(OURS, SERVICE)) as server:
        client = joined(server)
        server.answers = [answer(200, document.to_json())]
        with pytest.raises(
            AuthorityError, match=r"trust document is of other\.example, ours is cluster\.local"
        ):
            await client.trust(None)
        assert client.document == DOCUMENT
        client.close()
        server.answers = [answer(200, Joined(Chain.of(shown_by(OURS, NODE).chain[:-1]), document).to_json())]
        with pytest.raises(AuthorityError, match=r"trust document is of other\.example"):
            await AuthorityClient(server.endpoint, DOMAIN, "node-a", now).join(token())


async def test_address_where_nobody_listens_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    client = AuthorityClient(Endpoint(ip_address("127.0.0.1"), port), DOMAIN, "node-a", now)
    with pytest.raises(
        AuthorityUnavailable, match=rf"127\.0\.0\.1:{port} cannot be reached: Connection refused"
    ):
        await client.join(token())


# An authority of the version before, to which an optional field is one too many.


MALFORMED = answer(
    400, ErrorBody("request_malformed", "renewal has the unknown field 'return_hash'").to_json()
)


async def test_node_that_offers_what_its_authority_does_not_know_goes_on_without() -> None:
    certificate = Chain.of(shown_by(OURS, NODE).chain[:-1])
    async with serving(shown_by(OURS, SERVICE)) as server:
        client = joined(server)
        report = NodeReport(DOCUMENT.bundle_hash, DOCUMENT.document_hash, (), (), now(), "disk full")
        server.answers = [MALFORMED, answer(200, b"{}")]
        await client.report(report)
        server.answers = [MALFORMED, MALFORMED]
        with pytest.raises(AuthorityRefusal, match="request_malformed"):
            await client.report(report)
        server.answers = [MALFORMED, answer(200, certificate.to_json())]
        with pytest.raises(AuthorityError, match="key"):  # it is not for the key of this request
            await client.renew_node("ab" * 32)
        server.answers = [MALFORMED]
        with pytest.raises(AuthorityRefusal, match="request_malformed"):
            await client.renew_node()
        client.close()
    bodies = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in server.requests]
    assert [("unkept" in body or "return_hash" in body) for body in bodies] == [
        True,
        False,
        True,
        False,
        True,
        False,
        False,
    ]


async def test_node_that_joins_an_authority_of_the_version_before_offers_nothing_at_last() -> None:
    async with serving(shown_by(OURS, SERVICE)) as server:
        client = AuthorityClient(server.endpoint, DOMAIN, "node-a", now)
        server.answers = [MALFORMED, MALFORMED]
        with pytest.raises(AuthorityRefusal, match="request_malformed"):
            await client.join(token(), "ab" * 32)
        client.close()
    first, second = (json.loads(each.partition(b"\r\n\r\n")[2]) for each in server.requests)
    assert (first["return_hash"], "return_hash" in second) == ("ab" * 32, False)
