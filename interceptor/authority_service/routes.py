"""The authority's API: which request is which question to the desk, and what becomes of refusals and faults."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from interceptor.authority.documents import ErrorBody, Issue, NodeReport
from interceptor.authority.node_documents import Join, RenewNode
from interceptor.authority.refusal import Code, Refused
from interceptor.authority_service.audit import Attempt
from interceptor.authority_service.http import Response
from interceptor.errors import InvalidInput, quoted
from interceptor.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from cryptography import x509

    from interceptor.authority_service.desk import AuthorityDesk
    from interceptor.authority_service.http import Request
    from interceptor.errors import PeerRejected
    from interceptor.workload import Endpoint, IPAddress

    _Document = TypeVar("_Document")

log = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 60
MAX_REQUEST_BYTES = 32 * 1024  # a signing request of 16 KiB, and what is around it
MAX_REPORT_BYTES = 1024 * 1024
_NUMBER = re.compile(r"[0-9]{1,18}")
_HASH_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, and the chain that was verified, which may be empty."""

    endpoint: Endpoint
    verified_chain: tuple[x509.Certificate, ...]

    def __str__(self) -> str:
        return str(self.endpoint)


def origin_of(address: IPAddress) -> str:
    """What counts as one client before it has proven anything: an IPv4 address, or the /64 that a host may have whole."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address)


def body_limit(path: str) -> int:
    """How long the body of a request may be."""
    return MAX_REPORT_BYTES if path == "/v1/report" else MAX_REQUEST_BYTES


class Routes:
    """Answers the requests of one authority's service."""

    def __init__(self, desk: AuthorityDesk) -> None:
        self._desk = desk
        self._routes: dict[str, Callable[[Attempt, Peer, Request], Awaitable[Response]]] = {
            "POST /v1/join": self._join,
            "POST /v1/node": self._renew_node,
            "POST /v1/issue": self._issue,
            "POST /v1/report": self._report,
            "GET /v1/trust": self._trust,
            "GET /v1/registry": self._registry,
            "GET /healthz": self._health,
        }

    async def answer(self, peer: Peer, request: Request) -> Response:
        """One answer for every request; nothing that a node sends ends the service."""
        what = f"{request.method} {request.path}"
        route = self._routes.get(what)
        if route is None:
            unknown = Refused(Code.NOT_FOUND, f"{quoted(what)} is not in the authority's API")
            return self.refuse(Attempt(quoted(what), str(peer)), unknown)
        attempt = Attempt(what, str(peer))
        try:
            return await route(attempt, peer, request)
        except Refused as refused:
            return self.refuse(attempt, refused)
        except Exception:
            log.exception("a request of %s failed", peer)
            return self.refuse(
                attempt, Refused(Code.AUTHORITY_UNAVAILABLE, "internal error: see the authority's log")
            )

    def refuse_unread(self, peer: Peer, refused: Refused) -> Response:
        """The answer to what could not be read as far as its path and body."""
        return self.refuse(Attempt("unreadable request", str(peer)), refused)

    def sent_away(self, endpoint: Endpoint, error: PeerRejected) -> None:
        """A client did not get through the handshake: it showed a certificate that we do not believe, or spoke no TLS."""
        code = Code.REQUEST_MALFORMED if error.reason == Reason.HANDSHAKE_FAILED else Code.NODE_NOT_AUTHORISED
        self._desk.audit.refused(Attempt("handshake", str(endpoint)), Refused(code, str(error)))

    def refuse(self, attempt: Attempt, refused: Refused) -> Response:
        """The answer that tells a refusal, after the audit was told."""
        self._desk.audit.refused(attempt, refused)
        return Response(refused.code.status, ErrorBody(refused.code, refused.message).to_json())

    async def _join(self, attempt: Attempt, peer: Peer, request: Request) -> Response:
        joined = await self._desk.join(
            attempt, origin_of(peer.endpoint.address), _read(Join.from_json, request.body)
        )
        return Response(200, joined.to_json())

    async def _renew_node(self, attempt: Attempt, peer: Peer, request: Request) -> Response:
        node = self._desk.identify(attempt, peer.verified_chain)
        renewed = await self._desk.renew_node(attempt, node, _read(RenewNode.from_json, request.body))
        return Response(200, renewed.to_json())

    async def _issue(self, attempt: Attempt, peer: Peer, request: Request) -> Response:
        node = self._desk.identify(attempt, peer.verified_chain)
        chain = await self._desk.issue(attempt, node, _read(Issue.from_json, request.body))
        return Response(200, chain.to_json())

    async def _report(self, attempt: Attempt, peer: Peer, request: Request) -> Response:
        node = self._desk.identify(attempt, peer.verified_chain)
        await self._desk.report(node, _read(NodeReport.from_json, request.body))
        return Response(200, b"{}")

    async def _trust(self, attempt: Attempt, peer: Peer, request: Request) -> Response:
        self._desk.identify(attempt, peer.verified_chain)
        known = request.query.get("known")
        if known is not None and len(known) > _HASH_CHARACTERS:
            raise Refused(Code.REQUEST_MALFORMED, f"known={quoted(known)} is not the hash of a document")
        view = await self._desk.trust(known, _wait(request))
        return Response(304) if view is None else Response(200, view.trust_json)

    async def _registry(self, attempt: Attempt, peer: Peer, request: Request) -> Response:
        self._desk.identify(attempt, peer.verified_chain)
        known = _number(request, "known")
        view = await self._desk.registry(known, _wait(request))
        return Response(304) if view is None else Response(200, view.registry_json)

    async def _health(self, attempt: Attempt, peer: Peer, request: Request) -> Response:
        del attempt, peer, request
        self._desk.views.current()
        if not self._desk.audit.is_well():
            raise Refused(Code.AUTHORITY_UNAVAILABLE, "the authority cannot write its audit file")
        return Response(200, b'{"status":"ok"}')


def _read(parse: Callable[[bytes], _Document], body: bytes) -> _Document:
    try:
        return parse(body)
    except InvalidInput as error:
        raise Refused(Code.REQUEST_MALFORMED, str(error)) from None


def _wait(request: Request) -> float:
    return min(_number(request, "wait") or 0, MAX_WAIT_SECONDS)


def _number(request: Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise Refused(Code.REQUEST_MALFORMED, f"{name}={quoted(text)} is not a whole number")
    return int(text)
