"""The embedded authority, behind the interface that an authority elsewhere has too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.agent.clock import wall_clock

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from cryptography import x509

    from interceptor.authority_store import AuthorityStore
    from interceptor.identity.spiffe_id import SpiffeId


class EmbeddedSigner:
    """Signs in this process; the store renews the intermediate when it is time."""

    def __init__(self, store: AuthorityStore) -> None:
        self._store = store

    def not_after(self) -> datetime:
        """When the intermediate in use ends."""
        return self._store.issuer(wall_clock()).not_after

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        now = wall_clock()
        return self._store.issuer(now).sign(request, spiffe_id, lifetime, now)
