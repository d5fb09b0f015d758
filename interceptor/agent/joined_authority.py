"""An authority elsewhere: joined once with a token, and known again after a restart."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from interceptor.agent.clock import wall_clock
from interceptor.agent.kept_identity import KeptIdentity
from interceptor.agent.state import write_atomically
from interceptor.authority_client import AuthorityClient
from interceptor.errors import AuthorityError, InterceptorError, utc
from interceptor.identity.node_id import NodeId
from interceptor.identity.trust_document import TrustDocument

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.config import Config
    from interceptor.credentials import Credentials
    from interceptor.identity.svid import NodeSvid
    from interceptor.workload import Endpoint

log = logging.getLogger(__name__)

TRUST_FILE = "trust.json"


class JoinedAuthority:
    """An AuthorityAccess over the network; the node's own certificate is renewed like those of its workloads."""

    waiting_for: str | None = None

    def __init__(
        self, config: Config, address: Endpoint, token: str | None, link: AuthorityClient | None = None
    ) -> None:
        self.address = address
        self.node_name = config.node
        self._node_id = NodeId(config.trust_domain, config.node)
        self._token = token
        self._trust_path = config.paths.state_dir / TRUST_FILE
        self._kept = KeptIdentity(config.paths.state_dir)
        self.link = link or AuthorityClient(address, config.trust_domain, config.node, wall_clock)

    async def open(self) -> TrustDocument:
        """Go on as the node that we were, or become one with the token."""
        kept, why_not = self._load()
        if self._token is not None:
            try:
                self._keep_svid(await self.link.join(self._token))
            except AuthorityError as error:
                if kept is None:
                    raise
                log.warning("going on as %s, which this node was before: %s", self._node_id, error)
                self.link.resume(*kept)
        elif kept is None:
            raise AuthorityError(
                f"{why_not}: make a token with 'interceptor ca token create --node {self.node_name}' where the "
                "authority is, and start with 'interceptor up --join-token-file FILE'"
            )
        else:
            self.link.resume(*kept)
        document = self.link.document
        assert document is not None, "who has joined knows whom to believe"
        self.keep(document)
        return document

    def keep(self, document: TrustDocument) -> None:
        try:
            write_atomically(self._trust_path, document.to_json())
        except InterceptorError as error:
            log.warning("the next agent will begin with an older trust document: %s", error)

    async def run(self, credentials: Credentials, renewed: Callable[[NodeSvid], None]) -> None:
        def use(svid: NodeSvid) -> None:
            self._keep_svid(svid)
            renewed(svid)

        assert self.link.svid is not None, "it was opened"
        await credentials.keep_node_fresh(self.link.svid, self.link.renew_node, use)

    def close(self) -> None:
        self.link.close()

    def _keep_svid(self, svid: NodeSvid) -> None:
        try:
            self._kept.store(svid)
        except InterceptorError as error:
            log.warning("the next agent will need a new token to join: %s", error)

    def _load(self) -> tuple[tuple[NodeSvid, TrustDocument] | None, str]:
        """What the last agent left, or why it cannot be used."""
        svid = self._kept.load(self._node_id)
        document = None
        with suppress(OSError, InterceptorError):
            document = TrustDocument.from_json(self._trust_path.read_bytes())
        if svid is None or document is None or document.trust_domain != self._node_id.trust_domain:
            return (
                None,
                f"node {self.node_name} has not joined the authority at {self.address} since the last boot",
            )
        if svid.not_after <= wall_clock():
            return None, f"the certificate of node {self.node_name} expired at {utc(svid.not_after)}"
        return (svid, document), ""
