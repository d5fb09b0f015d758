"""The authority of this agent: one of its own, or one elsewhere that it joins. What both have in common is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.authority.address import AuthorityAddress
    from interceptor.credentials import Credentials
    from interceptor.credentials.link import AuthorityLink
    from interceptor.identity.svid import NodeSvid
    from interceptor.identity.trust_document import TrustDocument

AUTHORITY_DIRECTORY = "authority"


class AuthorityAccess(Protocol):
    """How an agent comes to certificates.

    link       what can be asked
    node_name  this node's name at the authority
    address    where the authority is, None for one of our own
    waiting_for  why there is no way in yet, None when there is, or when that was not tried
    """

    @property
    def link(self) -> AuthorityLink: ...

    @property
    def node_name(self) -> str: ...

    @property
    def address(self) -> AuthorityAddress | None: ...

    @property
    def waiting_for(self) -> str | None: ...

    async def open(self) -> TrustDocument:
        """Get ready to ask; what is to be believed until there is news.  AuthorityError when there is no way in."""

    @property
    def problem(self) -> str | None:
        """Why the node would not be let in after a boot; None when it would, or need not be."""

    def keep(self, document: TrustDocument) -> str | None:
        """What is believed from now on, so that the next agent can begin with it; why that cannot be kept, else None."""

    async def run(self, credentials: Credentials, renewed: Callable[[NodeSvid], None]) -> None:
        """What must go on as long as anything is asked, until cancelled; `renewed` is told of the node's certificates."""

    def close(self) -> None:
        """Let go of what it holds; nothing is asked any more."""
