"""The authority of an agent that has its own: the same desk, without a network in between."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from interceptor.authority.refusal import PASSING, Refused
from interceptor.authority_service.audit import Attempt
from interceptor.errors import AuthorityError, AuthorityRefusal, AuthorityUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from cryptography import x509

    from interceptor.authority.documents import NodeReport, RegistryDocument
    from interceptor.authority_service.desk import AuthorityDesk
    from interceptor.authority_service.view import View
    from interceptor.identity.spiffe_id import SpiffeId
    from interceptor.identity.trust_document import TrustDocument

_HERE = "embedded"


class EmbeddedAuthority:
    """What `AuthorityClient` is for an authority elsewhere.  `desk.views.run` must be running."""

    def __init__(self, desk: AuthorityDesk, node: str) -> None:
        """`node` is the name of the node that we are on; InterceptorError when the store does not take it."""
        desk.add_own_node(node)
        self._desk = desk
        self._node = node

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        """Leaf and intermediates; AuthorityError says why not."""
        attempt = Attempt("issue", _HERE, self._node, is_proven=True)
        try:
            return self._desk.issue_here(attempt, request, spiffe_id, lifetime)
        except Refused as refused:
            self._desk.audit.refused(attempt, refused)
            raise _as_a_node_hears_it(refused) from None

    async def trust(self, known: str | None) -> TrustDocument:
        """The trust document, once it has another hash than the known one."""
        return (await self._wait(lambda view: view.trust_hash != known)).trust

    async def registry(self, known: int | None) -> RegistryDocument:
        """The workloads of all nodes, once they have another version than the known one."""
        return (await self._wait(lambda view: view.registry.version != known)).registry

    async def report(self, report: NodeReport) -> None:
        """Tell what this node uses and has; AuthorityError when it cannot be kept."""
        attempt = Attempt("report", _HERE, self._node, is_proven=True)
        try:
            await self._desk.report_here(self._node, report)
        except Refused as refused:
            self._desk.audit.refused(attempt, refused)
            raise _as_a_node_hears_it(refused) from None

    async def _wait(self, wanted: Callable[[View], bool]) -> View:
        try:
            view = await self._desk.views.wait_until(wanted, math.inf)
        except Refused as refused:
            raise _as_a_node_hears_it(refused) from None
        assert view is not None, "without a time limit it waits until there is one"
        return view


def _as_a_node_hears_it(refused: Refused) -> AuthorityError:
    if refused.code in PASSING:
        return AuthorityUnavailable(str(refused))
    return AuthorityRefusal(refused.code.value, refused.message)
