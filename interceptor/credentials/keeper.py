"""Keep each enrolled workload's SVID fresh: a new key and certificate each time, without end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from interceptor.credentials.renewal import Renewal
from interceptor.credentials.signing_queue import SigningQueue
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.svid import X509Svid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime, timedelta

    from interceptor.credentials.link import Signer
    from interceptor.identity.spiffe_id import SpiffeId
    from interceptor.workload import Workload, WorkloadKey


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
        self,
        signer: Signer,
        lifetime: timedelta,
        now: Callable[[], datetime],
        observer: Observer,
        queue: SigningQueue | None = None,
    ) -> None:
        self._signer = signer
        self._lifetime = lifetime
        self._now = now
        self._observer = observer
        self._queue = queue or SigningQueue()
        self._renewals: dict[WorkloadKey, tuple[SpiffeId, Renewal[X509Svid]]] = {}

    def status(self, key: WorkloadKey) -> CredentialStatus | None:
        """The state of one workload's certificate, None when it is not kept here."""
        if key not in self._renewals:
            return None
        spiffe_id, renewal = self._renewals[key]
        return CredentialStatus(
            spiffe_id, renewal.certificate, renewal.renew_at, renewal.renewals, renewal.last_error
        )

    def svids(self) -> Iterator[X509Svid]:
        """Every SVID in use."""
        for _, renewal in self._renewals.values():
            if renewal.certificate is not None:
                yield renewal.certificate

    def bring_forward(self, is_meant: Callable[[X509Svid], bool], spread: timedelta) -> int:
        """Renew those SVIDs within `spread` that are meant, or due after a failure; returns how many."""
        brought = 0
        for _, renewal in self._renewals.values():
            svid = renewal.certificate
            if svid is not None and is_meant(svid):
                renewal.bring_forward(spread)
                brought += 1
        return brought

    def try_again(self, spread: timedelta) -> None:
        """Make the next attempt within `spread` for whatever failed: the authority is back."""
        for _, renewal in self._renewals.values():
            if renewal.last_error is not None:
                renewal.bring_forward(spread)

    async def keep_fresh(self, workload: Workload, publish: Callable[[X509Svid], None]) -> None:
        """Issue, publish, wait, and again, until cancelled; the first one as soon as it can be had."""

        def use(svid: X509Svid) -> None:
            publish(svid)
            self._observer.renewed(workload, svid)

        issue = partial(self._issue, workload.identity)
        renewal = Renewal(str(workload.key), issue, self._queue, self._now)
        self._renewals[workload.key] = (workload.identity, renewal)
        try:
            await renewal.run(use, partial(self._observer.renewal_failed, workload))
        finally:
            del self._renewals[workload.key]

    async def _issue(self, spiffe_id: SpiffeId) -> X509Svid:
        key = create_private_key()
        request = create_signing_request(spiffe_id, key)
        issued_at = self._now()
        chain = await self._signer.sign(request, spiffe_id, self._lifetime)
        return X509Svid(spiffe_id, chain, key, issued_at)
