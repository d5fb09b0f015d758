"""Follow a rotation of the root: find out that the authority issues from another root, and renew what is of the old.

The trust document says which roots are believed, not which of them issues. So while there are two, one certificate is
renewed now and then to see; once one comes from another root than the rest, the rest follows, spread over a short time.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import trio

from interceptor.credentials.issuers import root_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

    from interceptor.credentials.keeper import Credentials

PROBE = timedelta(seconds=30)
SPREAD = timedelta(seconds=30)
_SHARE_OF_LIFE = 10  # of a short life, both are a tenth


class RotationWatch:
    """Renews early what leads to a root that issues no more; `roots` gives those of our own trust domain."""

    def __init__(
        self, credentials: Credentials, roots: Callable[[], tuple[x509.Certificate, ...]], lifetime: timedelta
    ) -> None:
        self._credentials = credentials
        self._roots = roots
        self._probe = min(PROBE, lifetime / _SHARE_OF_LIFE)
        self._spread = min(SPREAD, lifetime / _SHARE_OF_LIFE)

    async def run(self) -> None:
        """Probe while there are several roots, until cancelled."""
        while True:
            await trio.sleep(self._probe.total_seconds())
            if len(self._roots()) > 1:
                self.probe()

    def probe(self) -> None:
        """Renew the oldest certificate now."""
        oldest = min(self._credentials.svids(), key=lambda svid: svid.issued_at, default=None)
        if oldest is not None:
            self._credentials.bring_forward(lambda svid: svid is oldest, timedelta(0))

    def renewed(self) -> None:
        """A certificate was renewed: what leads to another root than the newest one is of the old root."""
        roots = self._roots()
        if len(roots) < 2:
            return
        newest = max(self._credentials.svids(), key=lambda svid: svid.issued_at, default=None)
        if newest is not None:
            active = root_of(newest.chain, roots)
            self._credentials.bring_forward(lambda svid: root_of(svid.chain, roots) != active, self._spread)
