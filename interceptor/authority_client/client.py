"""What a node can ask an authority elsewhere.  It keeps the node's own certificate and the last trust document."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding

from interceptor.authority.documents import (
    MAX_REGISTRY_BYTES,
    Chain,
    Issue,
    RegistryDocument,
)
from interceptor.authority.node_documents import Join, Joined, Renewed, RenewNode
from interceptor.authority.refusal import Code
from interceptor.authority.tokens import root_of_token
from interceptor.authority_client.channel import ANSWER_SECONDS, Channel, Question, Side
from interceptor.authority_client.recognise import bundles_of_token
from interceptor.authority_client.resolve import Way
from interceptor.errors import AuthorityError, AuthorityRefusal, InvalidInput
from interceptor.identity.node_id import NodeId
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.svid import NodeSvid
from interceptor.identity.trust_document import MAX_TRUST_DOCUMENT_BYTES, TrustDocument

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from interceptor.authority.address import AuthorityAddress
    from interceptor.authority.documents import NodeReport
    from interceptor.identity.spiffe_id import SpiffeId, TrustDomain

_S = TypeVar("_S")
_T = TypeVar("_T")

LONG_POLL_SECONDS = 50


class AuthorityClient:
    """One node's way to its authority; every method may be called by many tasks at once.

    They raise AuthorityRefusal for what the authority refused, AuthorityUnavailable for what may work later, and
    AuthorityError for everything else that is wrong with it.
    """

    def __init__(
        self, address: AuthorityAddress, trust_domain: TrustDomain, node: str, now: Callable[[], datetime]
    ) -> None:
        """`node` is our name.  Then `join`, or `resume` with what an earlier join gave."""
        self._way = Way(address)
        self._trust_domain = trust_domain
        self._node_id = NodeId(trust_domain, node)
        self._now = now
        self._channel = Channel(self._way, trust_domain, now)
        self._svid: NodeSvid | None = None
        self._document: TrustDocument | None = None
        self.return_until: datetime | None = (
            None  # with the token that was offered last; None when it was not taken
        )

    @property
    def svid(self) -> NodeSvid | None:
        """The node's own certificate and key, None before it has joined."""
        return self._svid

    @property
    def document(self) -> TrustDocument | None:
        """The last trust document, None before the node has joined."""
        return self._document

    def resume(self, svid: NodeSvid, document: TrustDocument) -> None:
        """Go on with the certificate and the trust document of an earlier run; AuthorityError if they are not ours."""
        if svid.spiffe_id != self._node_id:
            raise AuthorityError(f"cannot be {self._node_id} with the certificate of {svid.spiffe_id}")
        self._require_ours(document)
        self._use(svid, document)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._channel.close()

    async def join(self, token: str, offered: str = "") -> NodeSvid:
        """Become a node of the authority that a token names: one of its own, good for once, or the agent's pod's.

        `offered` is the hash of the return token with which we would like to come back, here and below.
        """
        try:
            root_fingerprint = root_of_token(token)
        except InvalidInput as error:
            raise AuthorityError(str(error)) from None
        bundles = await bundles_of_token(self._way, self._trust_domain, root_fingerprint)
        return await self._join(Side.of(None, bundles, self._trust_domain), token, offered)

    async def come_back(self, token: str, document: TrustDocument, offered: str = "") -> NodeSvid:
        """Be the node again that we were, with its return token; `document` is what it believed last."""
        self._require_ours(document)
        side = Side.of(None, document.trust_bundles(), self._trust_domain)
        return await self._join(side, token, offered)

    async def _join(self, side: Side, token: str, offered: str) -> NodeSvid:
        try:
            return await self._join_offering(side, token, offered)
        except AuthorityRefusal as refusal:
            if not offered or not _is_not_understood(refusal):
                raise
            return await self._join_offering(side, token, "")

    async def _join_offering(self, side: Side, token: str, offered: str) -> NodeSvid:
        key, issued_at = create_private_key(), self._now()
        request = _pem(create_signing_request(self._node_id, key))
        question = Question(
            "POST",
            "/v1/join",
            lambda: Join(token, self._node_id.name, request, self._now(), _nonce(), offered).to_json(),
            limit=2 * MAX_TRUST_DOCUMENT_BYTES,
        )
        answer = await self._channel.ask_once(side, question)
        joined = _read(Joined.from_json, answer or b"")
        self._require_ours(joined.trust)
        svid = self._node_svid(joined.chain, key, issued_at)
        self._use(svid, joined.trust)
        self.return_until = joined.return_until
        return svid

    async def renew_node(self, offered: str = "") -> NodeSvid:
        """Get the node's next certificate, with a new key, and show it from now on."""
        try:
            return await self._renew_offering(offered)
        except AuthorityRefusal as refusal:
            if not offered or not _is_not_understood(refusal):
                raise
            return await self._renew_offering("")

    async def _renew_offering(self, offered: str) -> NodeSvid:
        key, issued_at = create_private_key(), self._now()
        request = _pem(create_signing_request(self._node_id, key))
        answer = await self._channel.ask(
            Question("POST", "/v1/node", lambda: RenewNode(request, self._now(), _nonce(), offered).to_json())
        )
        renewed = _read(Renewed.from_json, answer or b"")
        svid = self._node_svid(renewed.chain, key, issued_at)
        assert self._document is not None, "who renews has joined"
        self._use(svid, self._document)
        self.return_until = renewed.return_until
        return svid

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        """Leaf and intermediates for a workload of this node."""
        seconds, pem = max(int(lifetime.total_seconds()), 1), _pem(request)
        answer = await self._channel.ask(
            Question(
                "POST",
                "/v1/issue",
                lambda: Issue(str(spiffe_id), pem, seconds, self._now(), _nonce()).to_json(),
            )
        )
        return _read(Chain.certificates, _read(Chain.from_json, answer or b""))

    async def trust(self, known: str | None) -> TrustDocument:
        """The trust document, once it has another hash than the known one; we believe it from then on."""
        document = _read(
            TrustDocument.from_json, await self._poll("/v1/trust", known, MAX_TRUST_DOCUMENT_BYTES)
        )
        self._require_ours(document)
        if document != self._document:
            assert self._svid is not None, "who gets an answer has joined"
            self._use(self._svid, document)
        return document

    async def registry(self, known: int | None) -> RegistryDocument:
        """The workloads of all nodes, once they have another version than the known one."""
        return _read(RegistryDocument.from_json, await self._poll("/v1/registry", known, MAX_REGISTRY_BYTES))

    async def report(self, report: NodeReport) -> None:
        """Tell what this node uses and has."""
        try:
            await self._channel.ask(Question("POST", "/v1/report", report.to_json))
        except AuthorityRefusal as refusal:
            if not report.unkept or not _is_not_understood(refusal):
                raise
            await self._channel.ask(Question("POST", "/v1/report", replace(report, unkept="").to_json))

    async def _poll(self, path: str, known: object, limit: int) -> bytes:
        query = f"?wait={LONG_POLL_SECONDS}" + (f"&known={known}" if known is not None else "")
        seconds = LONG_POLL_SECONDS + ANSWER_SECONDS
        while True:
            answer = await self._channel.ask(Question("GET", f"{path}{query}", limit=limit, seconds=seconds))
            if answer is not None:
                return answer

    def _use(self, svid: NodeSvid, document: TrustDocument) -> None:
        self._svid, self._document = svid, document
        self._channel.use(Side.of(svid, document.trust_bundles(), self._trust_domain))

    def _node_svid(self, chain: Chain, key: ec.EllipticCurvePrivateKey, issued_at: datetime) -> NodeSvid:
        return _read(lambda one: NodeSvid(self._node_id, one.certificates(), key, issued_at), chain)

    def _require_ours(self, document: TrustDocument) -> None:
        if document.trust_domain != self._trust_domain:
            raise AuthorityError(
                f"the trust document is of {document.trust_domain}, ours is {self._trust_domain}: compare 'trustDomain' "
                "in config.yaml on both sides"
            )


def _read(parse: Callable[[_S], _T], value: _S) -> _T:
    try:
        return parse(value)
    except InvalidInput as error:
        raise AuthorityError(f"the authority's answer cannot be used: {error}") from None


def _is_not_understood(refusal: AuthorityRefusal) -> bool:
    """Whether an authority of an earlier version may have stumbled over an optional field; it has changed nothing."""
    return refusal.code == Code.REQUEST_MALFORMED


def _pem(request: x509.CertificateSigningRequest) -> str:
    return request.public_bytes(Encoding.PEM).decode("ascii")


def _nonce() -> str:
    return secrets.token_urlsafe(18)
