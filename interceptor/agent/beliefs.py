"""Whom the workloads of this node believe: a change is in force for all of them at once, also on open connections."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from interceptor.identity.trust_bundle import TrustBundles
from interceptor.proxy.late_denial import age_denial, revocation_denial
from interceptor.transport.tls import tls_contexts

if TYPE_CHECKING:
    from datetime import datetime

    from interceptor.agent.members import Enrolled, Members
    from interceptor.identity.svid import X509Svid
    from interceptor.proxy.late_denial import Lifetimes

log = logging.getLogger(__name__)


class Beliefs:
    """Owner of the trust bundles in force: nobody is believed until `believe`."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._bundles = TrustBundles({})

    async def believe(self, bundles: TrustBundles) -> None:
        """Verify peers by these bundles from now on, and close the connections of those who are revoked in them."""
        same_roots = bundles.roots == self._bundles.roots
        self._bundles = bundles
        # All of them before anything else runs: the other end of a connection may be on this node, and has a reason too.
        for enrolled in self._members.enrolled.values():
            context = enrolled.proxy.context
            if context.tls.value is not None:
                context.tls.replace(replace(context.tls.value, bundles=bundles))
            closed = context.live.close_denied(lambda record: revocation_denial(record, bundles))
            if closed:
                log.info("%s: %d connections were closed, an end is revoked", enrolled.workload.key, closed)
        for enrolled in () if same_roots else tuple(self._members.enrolled.values()):
            tls = enrolled.proxy.context.tls
            if tls.value is not None and self._bundles is bundles:
                tls.replace(tls_contexts(tls.value.svid, bundles))
            await trio.lowlevel.checkpoint()  # it takes a millisecond for each workload

    def prove(self, enrolled: Enrolled, svid: X509Svid) -> None:
        """Let a workload prove itself with this certificate from now on."""
        enrolled.proxy.context.tls.replace(tls_contexts(svid, self._bundles))

    def close_aged(self, lifetimes: Lifetimes, now: datetime) -> None:
        """Close the connections that are too old, or whose peer's certificate has been expired for too long."""
        monotonic = trio.current_time()
        for enrolled in self._members.enrolled.values():
            live = enrolled.proxy.context.live
            live.close_denied(lambda record: age_denial(record, lifetimes, now, monotonic))
