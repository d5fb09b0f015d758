"""What an enrolled workload needs all the time: fresh certificates, and to be known by the addresses that it has."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from interceptor.agent.claims import own_addresses
from interceptor.errors import AuthorityRefusal, InterceptorError
from interceptor.kernel.address_events import drain, open_address_events

if TYPE_CHECKING:
    from interceptor.agent.beliefs import Beliefs
    from interceptor.agent.claims import Claims
    from interceptor.agent.members import Enrolled, Members
    from interceptor.agent.workload_context import Shared
    from interceptor.credentials import Credentials
    from interceptor.workload import IPAddress

log = logging.getLogger(__name__)

ADDRESS_PAUSE_SECONDS, ADDRESS_RETRY_SECONDS = 0.1, 1.0
FIRST_CERTIFICATE_SECONDS = 10.0
REFUSAL_POLL_SECONDS = 0.1


class Attendant:
    """Looks after each workload, and changes no more of it than its addresses; `lock` is the enroller's."""

    def __init__(
        self,
        shared: Shared,
        members: Members,
        claims: Claims,
        beliefs: Beliefs,
        credentials: Credentials,
        lock: trio.Lock,
    ) -> None:
        self._capture = shared.capture
        self._registry = shared.registry
        self._members = members
        self._claims = claims
        self._beliefs = beliefs
        self._credentials = credentials
        self._lock = lock

    async def attend(self, enrolled: Enrolled) -> None:
        """Until it is withdrawn."""
        with enrolled.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_credentials, enrolled)
                nursery.start_soon(self._follow_addresses, enrolled)

    async def has_certificate(self, enrolled: Enrolled) -> bool:
        """Whether it has its first one, or gets it soon; an authority elsewhere that says no will not say yes then."""
        tls = enrolled.proxy.context.tls
        with trio.move_on_after(FIRST_CERTIFICATE_SECONDS):
            while tls.value is None:
                status = self._credentials.status(enrolled.workload.key)
                if status is not None and isinstance(status.last_failure, AuthorityRefusal):
                    break
                with trio.move_on_after(REFUSAL_POLL_SECONDS):
                    await tls.wait_changed()
        return tls.value is not None

    def why_no_certificate(self, enrolled: Enrolled) -> str:
        """What is known of why it has none."""
        status = self._credentials.status(enrolled.workload.key)
        return status.last_error if status and status.last_error else "the authority did not answer"

    async def _keep_credentials(self, enrolled: Enrolled) -> None:
        await self._credentials.keep_fresh(
            enrolled.workload, lambda svid: self._beliefs.prove(enrolled, svid)
        )

    async def _follow_addresses(self, enrolled: Enrolled) -> None:
        complaint = None
        while True:
            try:
                with open_address_events(enrolled.netns) as events:
                    while True:
                        await self._refresh_addresses(enrolled)
                        complaint = None
                        await trio.lowlevel.wait_readable(events)
                        # Whoever may change addresses may do so all the time: look at them so often and no more.
                        await trio.sleep(ADDRESS_PAUSE_SECONDS)
                        drain(events)
            except (InterceptorError, OSError) as error:
                if complaint != str(error):
                    log.warning("%s keeps the addresses that it had: %s", enrolled.workload.key, error)
                complaint = str(error)
            await trio.sleep(ADDRESS_RETRY_SECONDS)

    async def _refresh_addresses(self, enrolled: Enrolled) -> None:
        async with self._lock:
            self.refresh_addresses(enrolled)

    def refresh_addresses(self, enrolled: Enrolled) -> None:
        """Let it be known by what it has of the addresses that it may have; EnrolmentError when that is nothing.

        What it may have no more is another's at once, whatever comes of the rest. Who calls this has the lock.
        """
        workload, claim = enrolled.workload, enrolled.claim
        if self._members.enrolled.get(workload.key) is not enrolled:
            return
        if claim is not None:
            self._know_by(enrolled, tuple(a for a in workload.addresses if a.is_link_local or a in claim))
        addresses = own_addresses(
            enrolled.netns, lambda a: self._claims.may_have(enrolled.state, a, claim=claim)
        )
        self._know_by(enrolled, addresses)

    def _know_by(self, enrolled: Enrolled, addresses: tuple[IPAddress, ...]) -> None:
        workload = enrolled.workload
        local = (*addresses, *self._claims.others_inside(enrolled, addresses))
        if local != enrolled.local:
            self._capture.set_addresses(enrolled.cookie, local)
            enrolled.local = local
        if addresses == workload.addresses:
            return
        changed = replace(workload, addresses=addresses)
        registry = self._registry.value.without(workload.key).with_workload(changed)
        enrolled.become(changed)
        self._capture.set_prefixes(self._members.captured_networks())
        self._registry.replace(registry)
        self._members.save()
        log.info("%s has the addresses %s now", workload.key, ", ".join(map(str, addresses)))
