"""Keep each enrolled workload's SVID fresh, and the node's own: a new key and certificate each time, without end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from interceptor.authority.refusal import OF_IDENTITY
from interceptor.credentials.outage_log import OutageLog
from interceptor.credentials.renewal import Renewal
from interceptor.credentials.signing_queue import SigningQueue
from interceptor.errors import AuthorityRefusal, InterceptorError
from interceptor.identity.rotation import is_late
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.svid import NodeSvid, X509Svid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
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
    last_failure: InterceptorError | None

    @property
    def is_refused(self) -> bool:
        """Whether the authority says that this workload may not have its identity: no fault of the node's."""
        return isinstance(self.last_failure, AuthorityRefusal) and self.last_failure.code in OF_IDENTITY


def certificate_state(svid: X509Svid | NodeSvid | None, now: datetime) -> str:
    """missing, expired, not_yet_valid (by our clock), late (past three quarters of its life, not renewed) or valid."""
    if svid is None:
        return "missing"
    if svid.not_after <= now:
        return "expired"
    if svid.not_before > now:
        return "not_yet_valid"
    return "late" if is_late(svid.issued_at, svid.not_after, now) else "valid"


class Credentials:
    """The SVIDs of a node's workloads; one task for each workload runs `keep_fresh`.

    node    the renewal of the node's own certificate, None when the authority is in this process
    """

    def __init__(
        self, signer: Signer, lifetime: timedelta, now: Callable[[], datetime], observer: Observer
    ) -> None:
        self._signer = signer
        self._lifetime = lifetime
        self._now = now
        self._observer = observer
        self._queue = SigningQueue()
        self._outages = OutageLog()
        self._workloads: dict[WorkloadKey, tuple[SpiffeId, Renewal[X509Svid]]] = {}
        self._obtained: dict[WorkloadKey, X509Svid] = {}  # before anybody kept them fresh
        self.node: Renewal[NodeSvid] | None = None

    def status(self, key: WorkloadKey) -> CredentialStatus | None:
        """The state of one workload's certificate, None when it is not kept here."""
        if key not in self._workloads:
            return None
        spiffe_id, renewal = self._workloads[key]
        return CredentialStatus(
            spiffe_id,
            renewal.certificate,
            renewal.renew_at,
            renewal.renewals,
            renewal.last_error,
            renewal.last_failure,
        )

    def svids(self) -> Iterator[X509Svid | NodeSvid]:
        """Every SVID in use, of the workloads and of the node."""
        for renewal in self._renewals():
            if renewal.certificate is not None:
                yield renewal.certificate

    def late(self) -> int:
        """How many are missing, or past three quarters of their life."""
        now = self._now()
        return sum(certificate_state(renewal.certificate, now) != "valid" for renewal in self._renewals())

    def bring_forward(self, is_meant: Callable[[X509Svid | NodeSvid], bool], spread: timedelta) -> int:
        """Renew the SVIDs that are meant, each at a random moment within `spread`; returns how many."""
        meant = [
            renewal
            for renewal in self._renewals()
            if renewal.certificate is not None and is_meant(renewal.certificate)
        ]
        for renewal in meant:
            renewal.bring_forward(spread)
        return len(meant)

    def try_again(self, spread: timedelta) -> None:
        """Make the next attempt within `spread` wherever the last one failed: the authority is back."""
        for renewal in self._renewals():
            if renewal.last_error is not None:
                renewal.bring_forward(spread)

    async def obtain(self, workload: Workload) -> None:
        """Have a workload's first certificate, before anybody serves it; again does nothing.  InterceptorError."""
        if workload.key not in self._obtained:
            async with self._queue.place(urgent=True):
                self._obtained[workload.key] = await self._issue(workload.identity)

    def forget_obtained(self) -> None:
        """Those that nobody has begun to keep fresh are of no use."""
        self._obtained.clear()

    async def keep_fresh(self, workload: Workload, publish: Callable[[X509Svid], None]) -> None:
        """Issue, publish, wait, and again, until cancelled; the first one as soon as it can be had, or was."""

        def use(svid: X509Svid) -> None:
            publish(svid)
            self._observer.renewed(workload, svid)

        issue = partial(self._issue, workload.identity)
        renewal = Renewal(str(workload.key), issue, self._queue, self._now, self._outages)
        self._workloads[workload.key] = (workload.identity, renewal)
        try:
            first = self._obtained.pop(workload.key, None)
            first = first if first is not None and first.spiffe_id == workload.identity else None
            await renewal.run(use, partial(self._observer.renewal_failed, workload), first=first)
        finally:
            del self._workloads[workload.key]

    async def keep_node_fresh(
        self, first: NodeSvid, issue: Callable[[], Awaitable[NodeSvid]], use: Callable[[NodeSvid], None]
    ) -> None:
        """The same for the node's own certificate, of which it has one already."""
        self.node = Renewal(str(first.spiffe_id), issue, self._queue, self._now, self._outages)
        try:
            await self.node.run(use, lambda _: None, first=first)
        finally:
            self.node = None

    def _renewals(self) -> Iterator[Renewal[X509Svid] | Renewal[NodeSvid]]:
        for _, renewal in self._workloads.values():
            yield renewal
        if self.node is not None:
            yield self.node

    async def _issue(self, spiffe_id: SpiffeId) -> X509Svid:
        key = create_private_key()
        request = create_signing_request(spiffe_id, key)
        issued_at = self._now()
        chain = await self._signer.sign(request, spiffe_id, self._lifetime)
        return X509Svid(spiffe_id, chain, key, issued_at)
