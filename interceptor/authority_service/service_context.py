"""The service's own certificate and TLS context, renewed by itself: from the issuer that it serves."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import trio

from interceptor.authority_service.audit import Attempt
from interceptor.errors import InterceptorError
from interceptor.identity.certificates import CLOCK_SKEW
from interceptor.identity.node_id import AuthorityId
from interceptor.identity.rotation import EARLIEST_RENEWAL, renewal_time
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.transport.infrastructure_tls import authority_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from interceptor.authority_service.desk import AuthorityDesk
    from interceptor.authority_service.view import View
    from interceptor.transport.tls import TlsContext

log = logging.getLogger(__name__)

LIFETIME = timedelta(hours=24)
RETRY_SECONDS = 10.0


@dataclass(frozen=True, slots=True, repr=False)
class _Shown:
    """What the service shows: its chain with the root at the end, by which a node that joins recognises it."""

    chain: tuple[x509.Certificate, ...]
    private_key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True, repr=False)
class _Made:
    """A context, from what it was made, and from when to when it is used."""

    context: TlsContext
    intermediate: x509.Certificate
    roots: tuple[x509.Certificate, ...]
    begins: datetime
    renewal: datetime


class ServiceContext:
    """Gives each handshake the context of the moment."""

    def __init__(self, desk: AuthorityDesk, now: Callable[[], datetime]) -> None:
        """InterceptorError when no certificate can be had."""
        self._desk = desk
        self._now = now
        self._made = self._make()
        self._failed_at = -math.inf

    def current(self) -> TlsContext:
        """The context to use now; the last one when the issuer cannot make another."""
        made, view, now = self._made, self._desk.views.last, self._now()
        unchanged = (made.intermediate, made.roots) == (view.issuer.intermediate, _roots(view))
        is_due = not unchanged or not made.begins <= now < made.renewal
        if is_due and trio.current_time() - self._failed_at > RETRY_SECONDS:
            try:
                self._made = self._make()
            except InterceptorError as error:
                self._failed_at = trio.current_time()
                log.error("the service keeps its old certificate: %s", error)  # noqa: TRY400
        return self._made.context

    def _make(self) -> _Made:
        view, now, key = self._desk.views.last, self._now(), create_private_key()
        identity = AuthorityId(self._desk.trust_domain)
        chain = view.issuer.sign(create_signing_request(identity, key), identity, LIFETIME, now)
        self._desk.audit.issued(Attempt("own certificate", "here", identity=str(identity)), chain[0])
        roots = _roots(view)
        context = authority_context(_Shown((*chain, view.issuer.root), key), roots)
        renewal = renewal_time(now, chain[0].not_valid_after_utc, EARLIEST_RENEWAL)
        return _Made(context, view.issuer.intermediate, roots, now - CLOCK_SKEW, renewal)


def _roots(view: View) -> tuple[x509.Certificate, ...]:
    """Of our own trust domain: nodes of others have nothing to ask here."""
    return view.bundles.bundles[view.issuer.trust_domain].roots
