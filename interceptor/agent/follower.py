"""Keep this node in step with its authority: what it believes, which roots it uses, whom it knows, what it reports."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import trio

from interceptor.agent.clock import wall_clock
from interceptor.agent.remote_workloads import remote_workloads
from interceptor.agent.reporter import Reporter
from interceptor.agent.subscription import LONGEST_PAUSE, Subscription
from interceptor.authority.refusal import Code
from interceptor.authority.reports import MAX_ADDRESSES, MAX_REASON, NodeReport, RegisteredWorkload
from interceptor.credentials.issuers import roots_of
from interceptor.credentials.renewal import LONGEST_PAUSE_SHARE
from interceptor.credentials.rotation_watch import RotationWatch
from interceptor.errors import AuthorityRefusal
from interceptor.identity.certificates import fingerprint
from interceptor.identity.trust_bundle import serial_numbers
from interceptor.telemetry.expiry import AuthorityExpiry

if TYPE_CHECKING:
    from cryptography import x509

    from interceptor.agent.authority_access import AuthorityAccess
    from interceptor.agent.beliefs import Beliefs
    from interceptor.agent.records import Records
    from interceptor.authority.documents import RegistryDocument
    from interceptor.config import Config
    from interceptor.credentials import Credentials
    from interceptor.enrolment.registry import Registry
    from interceptor.identity.svid import NodeSvid
    from interceptor.identity.trust_document import TrustDocument
    from interceptor.proxy.snapshot import Snapshot
    from interceptor.workload import Workload

log = logging.getLogger(__name__)

_NOTHING = f"sha256:{'0' * 64}"  # the hash of no document
_RETURN_SHARE = (
    10  # after an outage, what failed is tried again within this part of a certificate's life, ...
)
_RETURN_LONGEST = timedelta(seconds=10)  # ... or within this


class Follower:
    """Everything that goes on between one node and its authority; `open`, and then `run`.

    document    the trust document in force
    unkept      why a restart would lose it, None when it would not
    """

    def __init__(
        self,
        config: Config,
        access: AuthorityAccess,
        credentials: Credentials,
        beliefs: Beliefs,
        registry: Snapshot[Registry],
        records: Records,
        *,
        is_registry: bool = True,
        leads: bool = True,
    ) -> None:
        """The authority keeps the registry of all nodes, unless a cluster does (`is_registry` is false then).

        Who does not lead leaves to another agent of this node what only one may do: to renew the node's certificate,
        and to report; until it is told to `lead`.
        """
        self.access = access
        self._config = config
        self._credentials = credentials
        self._beliefs = beliefs
        self._registry = registry
        self._expiry = records.metrics.expiry
        self._is_registry = is_registry
        self._may_lead = trio.Event()
        self._leading = trio.CancelScope()
        self.is_informed = not is_registry  # of the other nodes' workloads, as far as the authority tells us
        self._warnings: tuple[str, ...] = ()
        self.document: TrustDocument | None = None
        self.unkept: str | None = None
        self._kept: TrustDocument | None = None
        lifetime = config.certificates.lifetime
        pause = lifetime * LONGEST_PAUSE_SHARE  # short lives leave less time for everything
        self._return_spread = min(_RETURN_LONGEST, pause)
        self._longest_pause = min(LONGEST_PAUSE, pause)
        self.watch = RotationWatch(credentials, self.own_roots, lifetime)
        self.reporter = Reporter(self._report, access.link.report, self._confirm)
        self.trust: Subscription[TrustDocument, str] | None = None
        if leads:
            self.lead()

    def own_roots(self) -> tuple[x509.Certificate, ...]:
        """The roots of our own trust domain; none before there is a document."""
        if self.document is None:
            return ()
        own = self.document.trust_domain
        return next(bundle.roots for bundle in self.document.bundles if bundle.trust_domain == own)

    def trust_age(self) -> float | None:
        """How long ago the authority last confirmed the trust document, in seconds; None before it ever did."""
        if self.trust is None or self.trust.heard_at is None:
            return None
        return trio.current_time() - self.trust.heard_at

    @property
    def last_error(self) -> str | None:
        """Why the authority does not answer, None when it does."""
        trust = self.trust.last_error if self.trust else None
        return trust or self.reporter.last_error

    @property
    def refusal(self) -> str | None:
        """What the authority has against this node, so that nothing reaches it until somebody acts; None if nothing."""
        failures = (self.trust.last_failure if self.trust else None, self.reporter.last_failure)
        return next((str(each) for each in failures if isinstance(each, AuthorityRefusal)), None)

    @property
    def clock_skew(self) -> str | None:
        """That our clock and the authority's differ, as far as one of us has noticed: nothing can be renewed then."""
        failures = (self.trust.last_error if self.trust else None, self.reporter.last_error)
        return next((each for each in failures if each and each.startswith(f"{Code.CLOCK_SKEW}:")), None)

    async def open(self) -> None:
        """Find the way to the authority, and believe what it says."""
        await self._believe(await self.access.open())
        self._expiry.measure(self.trust_age, self._credentials.late)

    async def run(self) -> None:
        """Until cancelled."""
        assert self.document is not None, "it was opened"
        link = self.access.link
        self.trust = Subscription(
            "the trust document",
            link.trust,
            lambda document: document.document_hash,
            self._believe,
            known=self.document.document_hash,
            longest_pause=self._longest_pause,
            on_return=self._authority_is_back,
        )
        registry: Subscription[RegistryDocument, int] = Subscription(
            "the registry of other nodes",
            link.registry,
            lambda found: found.version,
            self._learn,
            longest_pause=self._longest_pause,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.trust.run)
            if self._is_registry:
                nursery.start_soon(registry.run)
            if self.access.address is None:
                nursery.start_soon(self.access.run, self._credentials, self._node_renewed)
            await self._may_lead.wait()
            with self._leading:
                await self._lead()

    def lead(self) -> None:
        """Do all that the node's one agent does."""
        self._may_lead.set()

    def stop_leading(self) -> None:
        """Go on following, and leave the rest to another agent."""
        self._leading.cancel()

    async def _lead(self) -> None:
        async with trio.open_nursery() as nursery:
            if self.access.address is not None:
                nursery.start_soon(self.access.run, self._credentials, self._node_renewed)
            nursery.start_soon(self.watch.run)
            nursery.start_soon(self.reporter.run)
            nursery.start_soon(self._report_changes)

    def renewed(self) -> None:
        """A certificate of this node was renewed."""
        if len(self.own_roots()) > 1:  # else nothing can have changed, and there may be thousands
            self.watch.renewed()
            self.reporter.changed()

    def _node_renewed(self, svid: NodeSvid) -> None:
        self._expiry.set_node(str(svid.spiffe_id), svid.issued_at.timestamp(), svid.not_after.timestamp())
        self.renewed()

    async def _believe(self, document: TrustDocument) -> None:
        bundles = document.trust_bundles()
        before = () if self.document is None else self.document.revoked.entries
        await self._beliefs.believe(bundles)
        self.document = document  # only now is it reported: the authority issues from a new root soon after
        self._credentials.bring_forward(
            lambda svid: bundles.revoked.find("", serial_numbers(svid.chain)) is not None, timedelta(0)
        )
        if {entry.value for entry in before} - {entry.value for entry in document.revoked.entries}:
            self._credentials.try_again(self._return_spread)  # what was refused may be granted now
        self._show_authorities()
        self._keep(document)
        self.reporter.changed()
        log.info("believing %s, %d revocations", document.document_hash, len(document.revoked.entries))

    async def _learn(self, document: RegistryDocument) -> None:
        workloads, warnings = remote_workloads(
            document.workloads,
            node=self.access.node_name,
            trust_domain=self._config.trust_domain,
            cidrs=self._config.mesh_cidrs,
        )
        for warning in warnings:
            if warning not in self._warnings:
                log.warning("%s", warning)
        self._warnings = warnings
        self.is_informed = True
        registry = self._registry.value.with_remote(workloads)
        if registry != self._registry.value:
            self._registry.replace(registry)

    def _keep(self, document: TrustDocument) -> None:
        self.unkept = self.access.keep(document)
        if self.unkept is None:
            self._kept = document

    def _report(self) -> NodeReport:
        """What the authority is to know; a document that a restart would lose is not confirmed, or trust would be lost."""
        assert self.document is not None
        if self.unkept is not None:
            self._keep(self.document)
        kept = self._kept
        self._show_authorities()
        chains = (svid.chain for svid in self._credentials.svids())
        return NodeReport(
            _NOTHING if kept is None else kept.bundle_hash,
            _NOTHING if kept is None else kept.document_hash,
            roots_of(chains, self.own_roots()),
            tuple(self._registered(workload) for workload in self._reported()),
            wall_clock(),
            (self.unkept or "")[:MAX_REASON],
        )

    def _reported(self) -> tuple[Workload, ...]:
        """What the authority is told that we have: nothing where others hear it from a cluster's API."""
        return self._registry.value.own if self._is_registry else ()

    def _registered(self, workload: Workload) -> RegisteredWorkload:
        addresses = tuple(address for address in workload.addresses if not address.is_link_local)
        reachable = replace(workload, addresses=addresses[:MAX_ADDRESSES], node=self.access.node_name)
        return RegisteredWorkload.of(reachable, reachable.labels)

    async def _report_changes(self) -> None:
        own = self._registry.value.own
        while True:
            registry = await self._registry.wait_changed()
            if registry.own != own:
                own = registry.own
                self.reporter.changed()

    def _confirm(self) -> None:
        if self.trust is not None:
            self.trust.confirm()

    def _authority_is_back(self) -> None:
        self._credentials.try_again(self._return_spread)
        self.reporter.changed()

    def _show_authorities(self) -> None:
        assert self.document is not None
        roots = (root for bundle in self.document.bundles for root in bundle.roots)
        intermediates = (each for svid in self._credentials.svids() for each in svid.chain[1:])
        self._expiry.set_authorities(
            AuthorityExpiry(kind, fingerprint(each), each.not_valid_after_utc.timestamp())
            for kind, found in (("root", roots), ("intermediate", intermediates))
            for each in dict.fromkeys(found)
        )
