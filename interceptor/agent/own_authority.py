"""The authority that an agent has for itself, when its configuration names no other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from interceptor.agent.authority_access import AUTHORITY_DIRECTORY
from interceptor.agent.clock import wall_clock
from interceptor.authority_service import Audit, AuthorityDesk, EmbeddedAuthority
from interceptor.authority_store import load_or_create
from interceptor.errors import InvalidInput
from interceptor.identity.node_id import validate_node_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.config import Config
    from interceptor.credentials import Credentials
    from interceptor.identity.svid import NodeSvid
    from interceptor.identity.trust_document import TrustDocument

AUDIT_FILE = "audit.jsonl"
_OTHERS = re.compile(r"[^a-z0-9]+")


class OwnAuthority:
    """An AuthorityAccess without a network; the commands of `interceptor ca` work on the same directory meanwhile."""

    address = None
    problem = None
    waiting_for = None

    def __init__(self, config: Config) -> None:
        """Open it, or make it at the first start; InterceptorError when it cannot be used."""
        directory = config.paths.state_dir / AUTHORITY_DIRECTORY
        self._store = load_or_create(directory, config.trust_domain, wall_clock())
        self.node_name = own_node_name(config.node)
        try:
            audit = Audit(directory / AUDIT_FILE, wall_clock)
            self._desk = AuthorityDesk(self._store, audit, wall_clock)
            self.link = EmbeddedAuthority(self._desk, self.node_name)
        except BaseException:
            self._store.close()
            raise

    async def open(self) -> TrustDocument:
        return self._desk.views.last.trust

    def keep(self, document: TrustDocument) -> str | None:
        """It is kept where it was made."""
        del document
        return None

    async def run(self, credentials: Credentials, renewed: Callable[[NodeSvid], None]) -> None:
        del credentials, renewed  # we are on the node that issues, and have no certificate to prove it with
        await self._desk.views.run()

    def close(self) -> None:
        self._store.close()


def own_node_name(host: str) -> str:
    """The name of this node at its own authority: the host's, or something like it, since hosts may be called anything."""
    try:
        return validate_node_name(host)
    except InvalidInput:
        return _OTHERS.sub("-", host.lower())[:63].strip("-") or "node"
