"""What a node asks of an authority, wherever that is: in this process, or reached over the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import timedelta

    from cryptography import x509

    from interceptor.authority.documents import NodeReport, RegistryDocument
    from interceptor.identity.spiffe_id import SpiffeId
    from interceptor.identity.trust_document import TrustDocument


class Signer(Protocol):
    """Whoever issues certificates."""

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        """Leaf and intermediates for a signing request; AuthorityError says why not."""


class AuthorityLink(Signer, Protocol):
    """Every call raises AuthorityError with the authority's reason, or why it cannot be reached."""

    async def trust(self, known: str | None) -> TrustDocument:
        """The trust document, as soon as its document_hash differs from `known`."""

    async def registry(self, known: int | None) -> RegistryDocument:
        """The workloads of all nodes, as soon as the version differs from `known`."""

    async def report(self, report: NodeReport) -> None:
        """Tell what this node runs and whom it trusts."""
