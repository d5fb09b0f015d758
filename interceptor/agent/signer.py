"""The embedded authority, behind the interface that an authority elsewhere has too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.agent.clock import wall_clock
from interceptor.authority_store import load_or_create

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    from cryptography import x509

    from interceptor.identity.authority import Authority
    from interceptor.identity.spiffe_id import SpiffeId


class EmbeddedSigner:
    """Signs in this process, and renews the intermediate when it is time."""

    def __init__(self, authority: Authority, directory: Path) -> None:
        self.authority = authority
        self._directory = directory

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        now = wall_clock()
        if self.authority.needs_intermediate(now):
            self.authority = load_or_create(self._directory, self.authority.trust_domain, now)
        return self.authority.sign(request, spiffe_id, lifetime, now)
