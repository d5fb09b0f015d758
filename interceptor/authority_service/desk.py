"""The authority's decisions, one method for each thing that a node can ask; no sockets and no HTTP.

The service calls it for the nodes that it hears, the agent with an embedded authority calls it directly: both get the
same answers from the same code, and leave the same lines in the audit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import trio
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from interceptor.authority.admission import ANY, AllowPattern, RateLimiter, ReplayWindow, allowed, check_clock
from interceptor.authority.documents import Chain
from interceptor.authority.node_documents import Joined, Renewed
from interceptor.authority.refusal import Code, Refused
from interceptor.authority.return_tokens import DEFAULT_PERIOD
from interceptor.authority_service.doors import Doors
from interceptor.authority_service.store_calls import in_thread
from interceptor.authority_service.view import Views
from interceptor.errors import AuthorityError, InvalidInput, PeerRejected, quoted, utc
from interceptor.identity.authority import MAX_LEAF_LIFETIME
from interceptor.identity.certificates import CLOCK_SKEW
from interceptor.identity.node_id import NodeId
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.verdict import Reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from interceptor.authority.documents import Issue
    from interceptor.authority.node_documents import Join, RenewNode
    from interceptor.authority.node_record import NodeRecord
    from interceptor.authority.reports import NodeReport
    from interceptor.authority_service.audit import Attempt, Audit
    from interceptor.authority_service.doors import NodeProof
    from interceptor.authority_service.view import View
    from interceptor.authority_store import AuthorityStore
    from interceptor.identity.node_id import Identity
    from interceptor.identity.spiffe_id import TrustDomain

log = logging.getLogger(__name__)

_WHOLE_SECONDS = timedelta(seconds=1)  # certificates have no finer times
_NODE_CODES: dict[str, Code] = {
    Reason.PEER_CERTIFICATE_EXPIRED: Code.NODE_IDENTITY_EXPIRED,
    Reason.PEER_CERTIFICATE_NOT_YET_VALID: Code.NODE_IDENTITY_NOT_YET_VALID,
    Reason.PEER_REVOKED: Code.NODE_REVOKED,
}


@dataclass(frozen=True, slots=True)
class DeskLimits:
    """What the authority grants: life of a node's own certificate, and requests, steadily and at once."""

    node_lifetime: timedelta = MAX_LEAF_LIFETIME
    return_period: timedelta = DEFAULT_PERIOD  # how long a return token is good for
    issues_per_second: float = 100.0  # of one node
    issues_at_once: int = 2000
    reports_per_second: float = 5.0  # of one node
    reports_at_once: int = 100
    joins_per_second: float = 5.0  # from one origin
    joins_at_once: int = 100
    remembered_joins: int = 10_000


class Admission(Protocol):
    """A further condition for the certificate of a workload, beside what its node is allowed."""

    async def require(self, node: str, spiffe_id: SpiffeId) -> None:
        """Raise Refused unless a node, by its name, may have this identity of our trust domain now."""


class AuthorityDesk:
    """Decides for one authority.  Every method raises Refused; `views.run` must be running."""

    def __init__(
        self,
        store: AuthorityStore,
        audit: Audit,
        now: Callable[[], datetime],
        limits: DeskLimits | None = None,
        admission: Admission | None = None,
        proof: NodeProof | None = None,
    ) -> None:
        """InterceptorError when the store cannot be used."""
        self._store = store
        self._admission = admission
        self._now = now
        self._limits = limits = limits or DeskLimits()
        self.audit = audit
        # What a node that came by its pod may have is for its pods to say: without them it does not come.
        self._doors = Doors(store, audit, limits.return_period, None if admission is None else proof)
        self.views = Views(store, now)
        self._replays = ReplayWindow()
        self._join_replays = ReplayWindow(limits.remembered_joins)  # strangers must not fill the nodes'
        self._issues = RateLimiter(limits.issues_per_second, limits.issues_at_once)
        self._reports = RateLimiter(limits.reports_per_second, limits.reports_at_once)
        self._joins = RateLimiter(limits.joins_per_second, limits.joins_at_once)

    @property
    def trust_domain(self) -> TrustDomain:
        return self._store.trust_domain

    # Who asks.

    def identify(self, attempt: Attempt, verified_chain: tuple[x509.Certificate, ...]) -> NodeRecord:
        """The node that a client certificate proves, if it may still speak to us."""
        if not verified_chain:
            raise Refused(Code.NODE_NOT_AUTHORISED, "the request came without a client certificate")
        view = self.views.current()
        attempt.shown(verified_chain[0])
        try:
            node_id = view.bundles.identify_node(verified_chain, self._now())
        except PeerRejected as error:
            raise Refused(_NODE_CODES.get(error.reason, Code.NODE_NOT_AUTHORISED), str(error)) from None
        if node_id.trust_domain != self.trust_domain:
            attempt.node = str(node_id)
            raise Refused(Code.NODE_NOT_AUTHORISED, f"{node_id} is no node of {self.trust_domain}")
        record = view.nodes.get(node_id.name)
        if record is None:
            raise Refused(Code.NODE_NOT_AUTHORISED, f"{node_id} has not joined, or was removed")
        issued_at = verified_chain[0].not_valid_before_utc + CLOCK_SKEW
        if issued_at + _WHOLE_SECONDS <= record.joined_at:
            raise Refused(
                Code.NODE_SUPERSEDED,
                f"the certificate of {node_id} is from before it joined anew at {utc(record.joined_at)}",
            )
        attempt.node, attempt.is_proven = record.name, True
        self._doors.heard(record.name)
        return record

    # What it asks for.

    async def join(self, attempt: Attempt, origin: str, request: Join) -> Joined:
        """Let a node in that has a token; `origin` is where it connects from, a host or a network."""
        now = self._now()
        self._joins.take(origin, trio.current_time())
        try:
            node_id = NodeId(self.trust_domain, request.node)
        except InvalidInput as error:
            raise Refused(Code.REQUEST_MALFORMED, str(error)) from None
        attempt.node = node_id.name
        self._join_replays.admit(node_id.name, request.nonce, request.at, now)
        await self._doors.knock(node_id, request.token)
        # Signed first, and with every doubt about it settled: a token is good for one attempt only.
        chain = self._sign(attempt, node_id, _read(request.csr_pem), self._limits.node_lifetime)
        return_until = await self._doors.open(attempt, node_id, request, now)
        self.audit.issued(attempt, chain[0])
        await self.views.look()
        trust = await in_thread(self._store.trust_document)
        return Joined(Chain.of(chain), trust, return_until)

    async def renew_node(self, attempt: Attempt, node: NodeRecord, request: RenewNode) -> Renewed:
        """The next certificate of a node, which proved itself with the last one."""
        self._admit(node, request.nonce, request.at)
        node_id = NodeId(self.trust_domain, node.name)
        chain = self._sign(attempt, node_id, _read(request.csr_pem), self._limits.node_lifetime)
        self.audit.issued(attempt, chain[0])
        return_until = await self._doors.renewed(node.name, request.return_hash, self._now())
        return Renewed(Chain.of(chain), return_until)

    async def issue(self, attempt: Attempt, node: NodeRecord, request: Issue) -> Chain:
        """The certificate of a workload that may be on this node."""
        attempt.identity = request.spiffe_id
        self._admit(node, request.nonce, request.at)
        try:
            spiffe_id = SpiffeId.parse(request.spiffe_id)
        except InvalidInput as error:
            raise Refused(Code.REQUEST_MALFORMED, str(error)) from None
        self._require_on_node(node, spiffe_id)
        if self._admission is not None:
            await self._admission.require(node.name, spiffe_id)
            self._require_still_there(node)
        chain = self._sign(attempt, spiffe_id, _read(request.csr_pem), request.lifetime)
        self.audit.issued(attempt, chain[0])
        return Chain.of(chain)

    def issue_here(
        self,
        attempt: Attempt,
        request: x509.CertificateSigningRequest,
        spiffe_id: SpiffeId,
        lifetime: timedelta,
    ) -> tuple[x509.Certificate, ...]:
        """The certificate of a workload on the authority's own host, whose agent may have any identity."""
        chain = self._sign(attempt, spiffe_id, request, lifetime)
        self.audit.issued(attempt, chain[0])
        return chain

    async def report(self, node: NodeRecord, report: NodeReport) -> None:
        """What a node uses and has; the store keeps it, and refuses what others will not hear of."""
        self._reports.take(node.name, trio.current_time())
        now = self._now()
        check_clock(node.name, report.at, now)
        if self._admission is not None:
            report = replace(report, workloads=())  # the API says which pods there are
        await in_thread(self._store.report, node.name, report, now)

    def add_own_node(self, node: str) -> None:
        """Know the node on the authority's own host, which needs no token; InterceptorError when that cannot be kept."""
        self._store.add_node(node, (AllowPattern(ANY, ANY),), self._now())

    async def report_here(self, node: str, report: NodeReport) -> None:
        """What the node on the authority's own host uses and has."""
        await in_thread(self._store.report, node, report, self._now())

    async def trust(self, known: str | None, seconds: float) -> View | None:
        """A view whose trust document is not the known one; None when none was within the time."""
        return await self.views.wait_until(lambda view: view.trust_hash != known, seconds)

    async def registry(self, known: int | None, seconds: float) -> View | None:
        """A view whose registry is not the known one; None when none was within the time."""
        return await self.views.wait_until(lambda view: view.registry.version != known, seconds)

    # The rules that several have in common.

    def _admit(self, node: NodeRecord, nonce: str, at: datetime) -> None:
        self._issues.take(node.name, trio.current_time())
        self._replays.admit(node.name, nonce, at, self._now())

    def _require_on_node(self, node: NodeRecord, spiffe_id: SpiffeId) -> None:
        if spiffe_id.trust_domain != self.trust_domain:
            raise Refused(
                Code.TRUST_DOMAIN_MISMATCH, f"the authority of {self.trust_domain} cannot issue {spiffe_id}"
            )
        if not allowed(node.allowed, spiffe_id):
            patterns = ", ".join(map(str, node.allowed)) or "nothing"
            raise Refused(
                Code.IDENTITY_NOT_ON_NODE, f"{node.name} may not have {spiffe_id}, allowed is: {patterns}"
            )

    def _require_still_there(self, node: NodeRecord) -> None:
        """What was known of the node when it asked may be some seconds old."""
        found = self.views.current().nodes.get(node.name)
        if found is None or found.revoked:
            raise Refused(Code.NODE_REVOKED, f"node {node.name} was revoked or removed meanwhile")

    def _sign(
        self,
        attempt: Attempt,
        identity: Identity,
        request: x509.CertificateSigningRequest,
        lifetime: timedelta,
    ) -> tuple[x509.Certificate, ...]:
        """Leaf and intermediates, not to be handed out before the audit has the leaf."""
        attempt.identity = str(identity)
        view, now = self.views.current(), self._now()
        try:
            view.bundles.require_not_revoked(identity, ())
        except PeerRejected as error:
            code = Code.NODE_REVOKED if isinstance(identity, NodeId) else Code.IDENTITY_REVOKED
            raise Refused(code, str(error)) from None
        if lifetime > MAX_LEAF_LIFETIME:
            raise Refused(
                Code.REQUEST_MALFORMED, f"a life of {lifetime.total_seconds():g} s is longer than 24 h"
            )
        if now >= view.issuer.not_after:
            raise Refused(
                Code.AUTHORITY_UNAVAILABLE,
                f"the authority's own certificate expired at {utc(view.issuer.not_after)}: put its root key back",
            )
        try:
            return view.issuer.sign(request, identity, lifetime, now)
        except AuthorityError as error:
            raise Refused(Code.SIGNING_REQUEST_REFUSED, str(error)) from None


def _read(csr_pem: str) -> x509.CertificateSigningRequest:
    try:
        return x509.load_pem_x509_csr(csr_pem.encode("ascii", "replace"))
    except (ValueError, UnsupportedAlgorithm):
        raise Refused(
            Code.SIGNING_REQUEST_REFUSED, f"{quoted(csr_pem)} is not a signing request in PEM"
        ) from None
