"""An authority elsewhere: joined once with a token, and known again after a restart, and after a boot."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import trio

from interceptor.agent.clock import wall_clock
from interceptor.agent.kept_identity import KeptIdentity
from interceptor.agent.return_tokens import ReturnTokens
from interceptor.agent.state import write_atomically
from interceptor.authority.refusal import Code
from interceptor.authority.tokens import PodToken
from interceptor.authority_client import AuthorityClient
from interceptor.errors import AuthorityError, AuthorityRefusal, AuthorityUnavailable, InterceptorError, utc
from interceptor.identity.node_id import NodeId
from interceptor.identity.rotation import backoff
from interceptor.identity.trust_document import TrustDocument

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from interceptor.authority.address import AuthorityAddress
    from interceptor.config import Config
    from interceptor.credentials import Credentials
    from interceptor.identity.svid import NodeSvid

log = logging.getLogger(__name__)

_randomness = random.SystemRandom()

TRUST_FILE = "trust.json"
TRUST_COPY = "trust-copy.json"  # whatever happens to one file, nobody has to make a token
_RATE_LIMITED = f"{Code.RATE_LIMITED}:"
_PATIENCE_SECONDS = 120.0  # while the authority says that it is asked too often


class JoinedAuthority:
    """An AuthorityAccess over the network; the node's own certificate is renewed like those of its workloads."""

    waiting_for: str | None = None

    def __init__(
        self,
        config: Config,
        address: AuthorityAddress,
        token: str | None,
        link: AuthorityClient | None = None,
    ) -> None:
        self.address = address
        self.node_name = config.node
        self._node_id = NodeId(config.trust_domain, config.node)
        self._token = token
        self._trust_paths = [config.paths.state_dir / name for name in (TRUST_FILE, TRUST_COPY)]
        self._kept = KeptIdentity(config.paths.state_dir)
        self._returns = ReturnTokens(config.paths.state_dir)
        self._unkept = False
        self._is_pod = token is not None and PodToken.is_meant(token)
        self.link = link or AuthorityClient(address, config.trust_domain, config.node, wall_clock)

    async def open(self) -> TrustDocument:
        """Go on as the node that we were, or become one with the token, or with the return token."""
        kept, why_not = self._load()
        if self._token is not None:
            await self._join(self._token, kept)
        elif kept is not None:
            self.link.resume(*kept)
        else:
            await self._come_back_or(AuthorityError(f"{why_not}: {self._how_to_join()}"))
        document = self.link.document
        assert document is not None, "who has joined knows whom to believe"
        self.keep(document)
        return document

    def keep(self, document: TrustDocument) -> str | None:
        content = document.to_json()
        try:
            for path in self._trust_paths:
                write_atomically(path, content)
        except InterceptorError as error:
            if not self._unkept:  # it is tried again and again
                log.warning("the next agent will begin with an older trust document: %s", error)
            self._unkept = True
            return str(error)
        self._unkept = False
        return None

    async def run(self, credentials: Credentials, renewed: Callable[[NodeSvid], None]) -> None:
        def use(svid: NodeSvid) -> None:
            self._keep_svid(svid)
            renewed(svid)

        assert self.link.svid is not None, "it was opened"
        self._returns.look_again()
        await credentials.keep_node_fresh(self.link.svid, self._renew, use)

    @property
    def problem(self) -> str | None:
        """Why the node could not come back after a boot; None when it could, or need not."""
        return self._returns.problem

    def close(self) -> None:
        self.link.close()

    async def _join(self, token: str, kept: tuple[NodeSvid, TrustDocument] | None) -> None:
        """With a token from outside; if it is of no use, which it is at the second start, go on as who we were."""
        offered = "" if self._is_pod else self._returns.offer()
        try:
            svid = await _patiently(lambda: self.link.join(token, offered))
        except AuthorityError as error:
            if kept is None:
                await self._come_back_or(error)
                return
            log.warning("going on as %s, which this node was before: %s", self._node_id, error)
            self.link.resume(*kept)
            return
        self._settle()
        self._keep_svid(svid)

    async def _come_back_or(self, otherwise: AuthorityError) -> None:
        """With the return token, after a boot; what is wrong otherwise, when there is none."""
        document = self._document()
        if self._returns.present is None or document is None:
            raise otherwise
        try:
            svid = await self._come_back(document)
        except AuthorityRefusal as refusal:
            raise AuthorityError(f"{refusal}: {self._how_to_join()}") from None
        log.info("this node came back as %s with its return token", self._node_id)
        self._keep_svid(svid)

    async def _come_back(self, document: TrustDocument) -> NodeSvid:
        try:
            return await self._return_once(document)
        except AuthorityRefusal as refusal:
            if refusal.code != Code.RETURN_TOKEN_ADVANCED:
                raise
        self._returns.taken()  # the answer was lost, or we were killed before we could keep it
        return await self._return_once(document)

    async def _return_once(self, document: TrustDocument) -> NodeSvid:
        token = self._returns.present
        assert token is not None, "it was looked at"
        offered = self._returns.offer()
        svid = await _patiently(lambda: self.link.come_back(token, document, offered))
        self._settle()
        return svid

    async def _renew(self) -> NodeSvid:
        """The node's next certificate; after an outage that was longer than the last one's life, by the return token."""
        assert self.link.document is not None, "it was opened"
        if self._is_pod:
            return await self.link.renew_node()
        try:
            svid = await self.link.renew_node(self._returns.offer())
        except AuthorityRefusal as refusal:
            if refusal.code != Code.NODE_IDENTITY_EXPIRED or self._returns.present is None:
                raise
            return await self._come_back(self.link.document)
        self._settle()
        return svid

    def _settle(self) -> None:
        """The authority has answered what we offered."""
        if self.link.return_until is not None:
            self._returns.taken()
        else:
            self._returns.declined()

    def _how_to_join(self) -> str:
        return (
            f"make a token with 'interceptor ca token create --node {self.node_name}' where the authority is, and start "
            "with 'interceptor up --join-token-file FILE'"
        )

    def _keep_svid(self, svid: NodeSvid) -> None:
        try:
            self._kept.store(svid)
        except InterceptorError as error:
            log.warning("the next agent will have to come back by the return token: %s", error)

    def _load(self) -> tuple[tuple[NodeSvid, TrustDocument] | None, str]:
        """What the last agent left, or why it cannot be used."""
        svid = self._kept.load(self._node_id)
        document = self._document()
        if svid is not None and document is None:
            return None, f"{' and '.join(map(str, self._trust_paths))} hold nothing that can be believed"
        if svid is None or document is None:
            return (
                None,
                f"node {self.node_name} has not joined the authority at {self.address} since the last boot",
            )
        if svid.not_after <= wall_clock():
            return None, f"the certificate of node {self.node_name} expired at {utc(svid.not_after)}"
        return (svid, document), ""

    def _document(self) -> TrustDocument | None:
        """What was believed last, None when no copy of that can be read."""
        for path in self._trust_paths:
            try:
                document = TrustDocument.from_json(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, InterceptorError) as error:
                log.warning("%s cannot be used: %s", path, error)
                continue
            if document.trust_domain == self._node_id.trust_domain:
                return document
        return None


async def _patiently(ask: Callable[[], Awaitable[NodeSvid]]) -> NodeSvid:
    """Ask again for as long as the authority says that it is asked too often, as when a whole mesh is booted."""
    deadline, attempt = trio.current_time() + _PATIENCE_SECONDS, 0
    while True:
        try:
            return await ask()
        except AuthorityUnavailable as error:
            if not str(error).startswith(_RATE_LIMITED) or trio.current_time() > deadline:
                raise
        await trio.sleep(backoff(attempt, _randomness.random()).total_seconds())
        attempt += 1
