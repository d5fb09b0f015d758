"""Keep each enrolled workload's SVID fresh: a new key and certificate at 50 to 60 % of its life, without end.

A valid certificate is never given up because a renewal failed; the workload
goes on with it, and the failure is shown until a renewal succeeds.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import trio

from interceptor.errors import InterceptorError
from interceptor.identity.rotation import EARLIEST_RENEWAL, LATEST_RENEWAL, backoff, renewal_time
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.svid import X509Svid

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from cryptography import x509

    from interceptor.identity.spiffe_id import SpiffeId
    from interceptor.workload import Workload, WorkloadKey

log = logging.getLogger(__name__)

# The wall clock can be set, and a suspended machine's timers stand still: look
# at it at least this often, however long the certificate still lives.
CLOCK_CHECK_SECONDS = 30.0
_randomness = random.SystemRandom()


class Signer(Protocol):
    """Whoever issues certificates: the embedded authority, or one reached over the network."""

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        """Leaf and intermediates for a signing request; InterceptorError says why not."""


class Observer(Protocol):
    """Told of every renewal."""

    def renewed(self, workload: Workload, svid: X509Svid) -> None: ...

    def renewal_failed(self, workload: Workload, error: str) -> None: ...


@dataclass(frozen=True, slots=True)
class CredentialStatus:
    """What is known of one workload's certificate: the one in use, when it is due, what went wrong last."""

    spiffe_id: SpiffeId
    svid: X509Svid | None
    renew_at: datetime | None
    renewals: int
    last_error: str | None


class Credentials:
    """The SVIDs of a node's workloads; one task for each workload runs `keep_fresh`."""

    def __init__(
        self, signer: Signer, lifetime: timedelta, now: Callable[[], datetime], observer: Observer
    ) -> None:
        self._signer = signer
        self._lifetime = lifetime
        self._now = now
        self._observer = observer
        self._status: dict[WorkloadKey, CredentialStatus] = {}

    def status(self, key: WorkloadKey) -> CredentialStatus | None:
        """The state of one workload's certificate, None when it is not kept here."""
        return self._status.get(key)

    async def keep_fresh(self, workload: Workload, publish: Callable[[X509Svid], None]) -> None:
        """Issue, publish, wait, and again, until cancelled; the first one as soon as it can be had."""
        self._status[workload.key] = CredentialStatus(workload.identity, None, None, 0, None)
        try:
            while True:
                svid = await self._issue_in_the_end(workload)
                publish(svid)
                self._observer.renewed(workload, svid)
                fraction = _randomness.uniform(EARLIEST_RENEWAL, LATEST_RENEWAL)
                due = renewal_time(svid.issued_at, svid.not_after, fraction)
                status = self._status[workload.key]
                self._status[workload.key] = CredentialStatus(
                    workload.identity, svid, due, status.renewals + 1, None
                )
                await self._sleep_until(due, svid.not_before)
        finally:
            del self._status[workload.key]

    async def _issue_in_the_end(self, workload: Workload) -> X509Svid:
        attempt = 0
        while True:
            try:
                return await self._issue(workload.identity)
            except InterceptorError as error:
                self._status[workload.key] = replace(self._status[workload.key], last_error=str(error))
                self._observer.renewal_failed(workload, str(error))
                pause = backoff(attempt, _randomness.random())
                log.warning(
                    "no certificate for %s: %s; next attempt in %.1f s",
                    workload.key,
                    error,
                    pause.total_seconds(),
                )
                attempt += 1
                await trio.sleep(pause.total_seconds())

    async def _issue(self, spiffe_id: SpiffeId) -> X509Svid:
        key = create_private_key()
        request = create_signing_request(spiffe_id, key)
        issued_at = self._now()
        chain = await self._signer.sign(request, spiffe_id, self._lifetime)
        return X509Svid(spiffe_id, chain, key, issued_at)

    async def _sleep_until(self, due: datetime, not_before: datetime) -> None:
        """Until it is time to renew, which it also is when the clock was set back to before the certificate."""
        while not_before <= (now := self._now()) < due:  # noqa: ASYNC110 - a clock has no event
            await trio.sleep(min((due - now).total_seconds(), CLOCK_CHECK_SECONDS))
