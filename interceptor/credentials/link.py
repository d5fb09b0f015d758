"""What a node asks of an authority, wherever that is: in this process, or reached over the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import timedelta

    from cryptography import x509

    from interceptor.identity.spiffe_id import SpiffeId


class Signer(Protocol):
    """Whoever issues certificates."""

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        """Leaf and intermediates for a signing request; AuthorityError says why not."""
