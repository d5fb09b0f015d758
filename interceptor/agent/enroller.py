"""Take workloads into the mesh and out of it.

Enrolment is a transaction: each step that changes the kernel registers how it
is undone, and a failure undoes what was done.  The order is what keeps it safe:
capture is on before the workload is known to others, and it is switched off
last when a workload is withdrawn.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from interceptor.agent.listeners import open_listeners, steering_slots
from interceptor.agent.reference import end_processes
from interceptor.agent.state import EnrolledState
from interceptor.agent.workload_context import workload_context
from interceptor.errors import AuthorityRefusal, EnrolmentError, InterceptorError
from interceptor.identity.spiffe_id import SpiffeId, validate_name
from interceptor.identity.trust_bundle import TrustBundles
from interceptor.kernel import netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.abi import INBOUND_PLAINTEXT_PORT, INBOUND_TUNNEL_PORT, OUTBOUND_PORT
from interceptor.kernel.address_events import drain, open_address_events
from interceptor.kernel.return_path import current_sysctls, install_return_path, remove_return_path
from interceptor.kernel.socket_diag import destroy_established
from interceptor.labels import NO_LABELS, Labels
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.verdict import Reason
from interceptor.proxy.late_denial import age_denial, revocation_denial
from interceptor.proxy.workload_proxy import WorkloadProxy
from interceptor.transport.tls import tls_contexts
from interceptor.workload import Workload, WorkloadKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from interceptor.agent.reference import NamespaceReference
    from interceptor.agent.state import RunDetails, StateFile
    from interceptor.agent.workload_context import Shared
    from interceptor.credentials import Credentials
    from interceptor.identity.svid import X509Svid
    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.proxy.late_denial import Lifetimes
    from interceptor.workload import IPAddress, IPNetwork

log = logging.getLogger(__name__)

ADDRESS_PAUSE_SECONDS, ADDRESS_RETRY_SECONDS = 0.1, 1.0
FIRST_CERTIFICATE_SECONDS = 10.0
REFUSAL_POLL_SECONDS = 0.1
# What a program wrote before it ended may still be on its way to a slow reader.
DRAIN_SECONDS = 45.0
STALLED_SECONDS = 5.0
DRAIN_POLL_SECONDS = 0.02


@dataclass(slots=True)
class Enrolled:
    """A workload in the mesh, with what it holds in the kernel and in the proxy."""

    workload: Workload
    state: EnrolledState
    netns: NetworkNamespace
    cookie: int
    proxy: WorkloadProxy
    scope: trio.CancelScope
    local: tuple[
        IPAddress, ...
    ]  # what it reaches without the proxy: its addresses, and others in its namespace


@dataclass(frozen=True, slots=True)
class CutOff:
    """A workload of the last agent that could not be taken over: captured, not served, and tried again."""

    state: EnrolledState
    error: str


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wants to enrol; every part is validated when it is enrolled."""

    namespace: str
    name: str
    service_account: str
    reference: NamespaceReference
    run: RunDetails | None = None
    labels: Labels = NO_LABELS


class Enroller:
    """Owner of the set of enrolled workloads; its methods run one at a time."""

    def __init__(self, shared: Shared, credentials: Credentials, state_file: StateFile) -> None:
        self._shared = shared
        self._config = shared.config
        self._capture = shared.capture
        self._records = shared.records
        self._policy = shared.policy
        self._registry = shared.registry
        self._credentials = credentials
        self._state_file = state_file
        self._bundles = TrustBundles({})  # nobody, until `believe`
        self._enrolled: dict[WorkloadKey, Enrolled] = {}
        self._cut_off: dict[WorkloadKey, CutOff] = {}
        # Written down, and not in either of the above yet: being enrolled, or waiting to be taken over.
        self._pending: dict[WorkloadKey, EnrolledState] = {}
        self.lock = trio.Lock()

    @property
    def enrolled(self) -> tuple[Enrolled, ...]:
        """Everything enrolled, by namespace and name."""
        return tuple(self._enrolled[key] for key in sorted(self._enrolled))

    @property
    def cut_off(self) -> tuple[CutOff, ...]:
        """What could not be taken over, by namespace and name."""
        return tuple(self._cut_off[key] for key in sorted(self._cut_off))

    def get(self, key: WorkloadKey) -> Enrolled | None:
        return self._enrolled.get(key)

    async def believe(self, bundles: TrustBundles) -> None:
        """Verify peers by these bundles from now on, and close the connections of those who are revoked in them."""
        same_roots = bundles.roots == self._bundles.roots
        self._bundles = bundles
        # All of them before anything else runs: the other end of a connection may be on this node, and has a reason too.
        for enrolled in self._enrolled.values():
            context = enrolled.proxy.context
            if context.tls.value is not None:
                context.tls.replace(replace(context.tls.value, bundles=bundles))
            closed = context.live.close_denied(lambda record: revocation_denial(record, bundles))
            if closed:
                log.info("%s: %d connections were closed, an end is revoked", enrolled.workload.key, closed)
        for enrolled in () if same_roots else tuple(self._enrolled.values()):
            tls = enrolled.proxy.context.tls
            if tls.value is not None and self._bundles is bundles:
                tls.replace(tls_contexts(tls.value.svid, bundles))
            await trio.lowlevel.checkpoint()  # it takes a millisecond for each workload

    def close_aged(self, lifetimes: Lifetimes, now: datetime) -> None:
        """Close the connections that are too old, or whose peer's certificate has been expired for too long."""
        monotonic = trio.current_time()
        for enrolled in self._enrolled.values():
            live = enrolled.proxy.context.live
            live.close_denied(lambda record: age_denial(record, lifetimes, now, monotonic))

    async def enrol(self, request: Request, netns: NetworkNamespace, nursery: trio.Nursery) -> Enrolled:
        """Enrol a network namespace, which is ours to close from now on; returns when it has its certificate."""
        async with self.lock:
            with ExitStack() as undo:
                undo.callback(netns.close)
                enrolled = self._prepare(request, netns, undo)
                del self._pending[enrolled.workload.key]
                # Before the proxy has connections of its own in there, which would be among them.
                if self._policy.value.modes.at(enrolled.workload, 0).mode is MtlsMode.STRICT:
                    cut = destroy_established(netns, self._captured_networks())
                    if cut:
                        log.info("%s: %d connections from before its enrolment were reset", request.name, cut)
                undo.pop_all()
            self._admit(enrolled, nursery)
            if not await self._has_certificate(enrolled):
                self._withdraw(enrolled)
                status = self._credentials.status(enrolled.workload.key)
                reason = status.last_error if status and status.last_error else "the authority did not answer"
                raise EnrolmentError(
                    f"workload {enrolled.workload.key} cannot be enrolled, it gets no certificate: {reason}"
                )
            log.info("enrolled %s as %s", enrolled.workload.key, enrolled.workload.identity)
            return enrolled

    async def take_over(self, states: Iterable[EnrolledState], nursery: trio.Nursery) -> None:
        """Restore everything that the last agent had enrolled."""
        self._pending = {state.key: state for state in states}
        for state in tuple(self._pending.values()):
            await self.restore(state, nursery)

    async def restore(self, state: EnrolledState, nursery: trio.Nursery) -> None:
        """Take over a workload that the last agent had enrolled, or forget it when its network namespace is gone.

        One that cannot be taken over stays captured, and so is refused everything.
        """
        async with self.lock:
            before = self._cut_off.get(state.key)
            try:
                enrolled = self._reopen(state)
            except (InterceptorError, OSError) as error:
                if before is None or before.error != str(error):
                    log.error("cannot take over %s, it stays cut off: %s", state.key, error)  # noqa: TRY400
                self._cut_off[state.key] = CutOff(state, str(error))
            else:
                self._cut_off.pop(state.key, None)
                if enrolled is not None:
                    self._admit(enrolled, nursery)
                    log.info("took over %s", state.key)
            self._pending.pop(state.key, None)

    def _reopen(self, state: EnrolledState) -> Enrolled | None:
        """Capture and listen again; None, and nothing is left of it, when its network namespace is gone."""
        netns = state.reference.reopen()
        if netns is None or (state.run is not None and not state.run.owner.is_alive()):
            log.info("%s ended while no agent was there", state.key)
            if netns is not None:
                netns.close()
            self._capture.withdraw(state.reference.cookie)
            remove_run(state)
            self._cut_off.pop(state.key, None)
            self._forget(state.key)
            return None
        request = Request(
            state.key.namespace,
            state.key.name,
            state.service_account,
            state.reference,
            state.run,
            state.labels,
        )
        with ExitStack() as undo:
            undo.callback(netns.close)
            undo.callback(self._capture.hold, state.reference.cookie)
            enrolled = self._prepare(request, netns, undo, previous=state)
            undo.pop_all()
        return enrolled

    async def drain(self, key: WorkloadKey) -> None:
        """Let a workload that has ended deliver its last bytes: wait for its connections, while they make progress."""
        enrolled = self._enrolled.get(key)
        if enrolled is None:
            return
        live = enrolled.proxy.context.live
        carried, moved_at = live.bytes_carried, trio.current_time()
        with trio.move_on_after(DRAIN_SECONDS):
            while len(live) and trio.current_time() - moved_at < STALLED_SECONDS:
                await trio.sleep(DRAIN_POLL_SECONDS)
                if live.bytes_carried != carried:
                    carried, moved_at = live.bytes_carried, trio.current_time()

    async def withdraw(self, key: WorkloadKey) -> None:
        """Take a workload out: its connections are reset, its network namespace is as it was before."""
        async with self.lock:
            enrolled = self._enrolled.get(key)
            if enrolled is None and key in self._cut_off:
                self._release(key)
                return
            if enrolled is None:
                raise EnrolmentError(f"workload {key} is not enrolled: see 'interceptor workloads'")
            self._withdraw(enrolled)
            log.info("withdrew %s", key)

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
        async with self.lock:
            workload = enrolled.workload
            addresses = _addresses(enrolled.netns, lambda a: self._may_have(enrolled.state, a))
            if self._enrolled.get(workload.key) is not enrolled:
                return
            local = (*addresses, *self._others_inside(enrolled, addresses))
            if local != enrolled.local:
                self._capture.set_addresses(enrolled.cookie, local)
                enrolled.local = local
            if addresses == workload.addresses:
                return
            changed = replace(workload, addresses=addresses)
            registry = self._registry.value.without(workload.key).with_workload(changed)
            enrolled.workload = changed
            enrolled.state = replace(enrolled.state, addresses=addresses)
            self._capture.set_prefixes(self._captured_networks())
            self._registry.replace(registry)
            self._save()
            log.info("%s has the addresses %s now", workload.key, ", ".join(map(str, addresses)))

    def _others_inside(self, enrolled: Enrolled, addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        """Addresses that a namespace has and that are not the workload's for others: it may talk to itself there.

        Not if they are another's: should they leave the namespace, that one would be
        reached without the proxy for a moment.
        """
        bridge = self._config.bridge
        return tuple(
            found.address
            for found in netlink.addresses(enrolled.netns)
            if found.address not in addresses
            and self._registry.value.by_address(found.address) is None
            and found.address not in (bridge.ipv4.ip, bridge.ipv6.ip)
        )

    def _may_have(self, state: EnrolledState, address: IPAddress) -> bool:
        """Whether a workload may have an address that it was not enrolled with.

        Whoever may administer its namespace can add any: then what others send there
        would come to it.  Those of `interceptor run` keep what they were given, others
        may take free addresses of the mesh, and never the bridge's own.
        """
        if address in state.addresses or address.is_link_local:
            return True
        bridge = self._config.bridge
        within = any(address in cidr for cidr in self._config.mesh_cidrs)
        taken = self._holder_to_be(address, besides=state.key) or self._registry.value.is_remote(address)
        return state.run is None and within and not taken and address not in (bridge.ipv4.ip, bridge.ipv6.ip)

    def _holder_to_be(self, address: IPAddress, *, besides: WorkloadKey) -> WorkloadKey | None:
        """Who has had an address with the last agent, and is not served by this one (yet)."""
        if address.is_link_local:
            return None
        waiting = (*self._pending.values(), *(cut_off.state for cut_off in self._cut_off.values()))
        return next((s.key for s in waiting if address in s.addresses and s.key != besides), None)

    def _prepare(
        self,
        request: Request,
        netns: NetworkNamespace,
        undo: ExitStack,
        *,
        previous: EnrolledState | None = None,
    ) -> Enrolled:
        key = WorkloadKey(request.namespace, request.name)
        identity = SpiffeId(
            self._config.trust_domain,
            key.namespace,
            validate_name("service account", request.service_account),
        )
        self._require_new(key, netns, previous=previous)
        addresses = _addresses(netns, lambda a: previous is None or self._may_keep(previous, a))
        workload = Workload(key, identity, addresses, self._config.node, request.labels)
        self._require_free(workload)
        if previous is None:
            self._require_local(workload)
        state = self._write_down(workload, request, netns, undo) if previous is None else previous
        install_return_path(netns)
        listeners = open_listeners(netns, undo)
        cookie = netns.cookie()
        proxy = WorkloadProxy(
            workload_context(workload, netns, self._shared),
            outbound_listeners=listeners[OUTBOUND_PORT],
            plaintext_listeners=listeners[INBOUND_PLAINTEXT_PORT],
            tunnel_listeners=listeners[INBOUND_TUNNEL_PORT],
        )
        enrolled = Enrolled(workload, state, netns, cookie, proxy, trio.CancelScope(), workload.addresses)
        self._enrolled[key] = enrolled
        undo.callback(self._enrolled.pop, key)
        undo.callback(lambda: self._capture.set_prefixes(self._captured_networks(without=key)))
        self._capture.set_prefixes(self._captured_networks())
        if previous is None:
            undo.callback(self._capture.withdraw, cookie)
        self._capture.enrol(netns, cookie, workload.addresses, steering_slots(listeners))
        return enrolled

    def _may_keep(self, previous: EnrolledState, address: IPAddress) -> bool:
        """Whether an address is a workload's own when it is taken over: one that it took meanwhile may be another's."""
        holder = self._registry.value.by_address(address)
        return self._may_have(previous, address) and (address.is_link_local or holder is None)

    def _require_free(self, workload: Workload) -> None:
        """EnrolmentError when somebody has its name or one of its addresses, or will have them again."""
        self._registry.value.with_workload(workload)
        for address in workload.addresses:
            holder = self._holder_to_be(address, besides=workload.key)
            if holder is not None:
                raise EnrolmentError(
                    f"workload {workload.key} cannot be enrolled, its address {address} belongs to {holder}, which "
                    "could not be taken over from the last agent: withdraw that first"
                )

    def _require_local(self, workload: Workload) -> None:
        """EnrolmentError when a workload of another node has one of its addresses: others are sent there."""
        for address in workload.addresses:
            if self._registry.value.is_remote(address):
                holder = self._registry.value.by_address(address)
                assert holder is not None
                raise EnrolmentError(
                    f"workload {workload.key} cannot be enrolled, its address {address} belongs to {holder.key} on "
                    f"node {holder.node}: give this one another address, or withdraw the other there"
                )

    def _write_down(
        self, workload: Workload, request: Request, netns: NetworkNamespace, undo: ExitStack
    ) -> EnrolledState:
        """Note in the state file what is about to be changed, so that it is undone also if we die on the way."""
        key, sysctls = workload.key, current_sysctls(netns)
        state = EnrolledState(
            key,
            request.service_account,
            request.reference,
            workload.addresses,
            sysctls,
            request.run,
            request.labels,
        )
        self._pending[key] = state
        undo.callback(self._forget, key)
        self._save()
        undo.callback(remove_return_path, netns, sysctls)
        return state

    def _forget(self, key: WorkloadKey) -> None:
        self._pending.pop(key, None)
        self._save()

    def _admit(self, enrolled: Enrolled, nursery: trio.Nursery) -> None:
        """Start serving it, and let the others know of it."""
        nursery.start_soon(enrolled.proxy.run)
        nursery.start_soon(self._attend, enrolled)
        self._registry.replace(self._registry.value.with_workload(enrolled.workload))
        self._records.metrics.set_workloads(len(self._enrolled))

    def _withdraw(self, enrolled: Enrolled) -> None:
        key = enrolled.workload.key
        self._registry.replace(self._registry.value.without(key))
        enrolled.proxy.stop(Reason.WITHDRAWN)
        enrolled.scope.cancel()
        del self._enrolled[key]
        self._records.metrics.forget(key)
        self._records.metrics.set_workloads(len(self._enrolled))
        # Each of these whatever becomes of the others.  Capture last of all that matters: until then nothing passes in
        # plaintext.  The state file last of all: until then, whoever comes after us knows what is left to be undone.
        with ExitStack() as steps:
            steps.callback(self._save)
            steps.callback(remove_run, enrolled.state)
            steps.callback(enrolled.netns.close)
            steps.callback(remove_return_path, enrolled.netns, enrolled.state.previous_sysctls)
            steps.callback(lambda: self._capture.set_prefixes(self._captured_networks()))
            steps.callback(self._capture.withdraw, enrolled.cookie)

    def _release(self, key: WorkloadKey) -> None:
        """Let go of a workload that nobody serves; it stays cut off when something fails."""
        state = self._cut_off[key].state
        netns = state.reference.reopen()
        self._capture.withdraw(state.reference.cookie)
        if netns is not None:
            with netns:
                remove_return_path(netns, state.previous_sysctls)
        remove_run(state)
        del self._cut_off[key]
        self._save()

    async def _attend(self, enrolled: Enrolled) -> None:
        """What an enrolled workload needs all the time, until it is withdrawn."""
        with enrolled.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_credentials, enrolled)
                nursery.start_soon(self._follow_addresses, enrolled)

    async def _keep_credentials(self, enrolled: Enrolled) -> None:
        def publish(svid: X509Svid) -> None:
            enrolled.proxy.context.tls.replace(tls_contexts(svid, self._bundles))

        await self._credentials.keep_fresh(enrolled.workload, publish)

    async def _has_certificate(self, enrolled: Enrolled) -> bool:
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

    def _require_new(
        self, key: WorkloadKey, netns: NetworkNamespace, *, previous: EnrolledState | None
    ) -> None:
        with kernel_netns.current() as ours:
            if netns.is_same_as(ours):
                raise EnrolmentError(
                    f"{netns.description} is the host's own network namespace, which the agent itself runs in: "
                    "give the workload one of its own ('interceptor run' does)"
                )
        for enrolled in self._enrolled.values():
            if netns.is_same_as(enrolled.netns):
                raise EnrolmentError(
                    f"{netns.description} is enrolled already, as {enrolled.workload.key}: withdraw that first"
                )
        for cut_off in self._cut_off.values():
            state = cut_off.state
            if previous is None and (state.key == key or state.reference.inode == netns.inode):
                raise EnrolmentError(
                    f"workload {key} cannot be enrolled in {netns.description}: {state.key}, which could not be taken "
                    "over from the last agent, has its name or its namespace: withdraw that first"
                )

    def _captured_networks(self, *, without: WorkloadKey | None = None) -> frozenset[IPNetwork]:
        """The mesh's CIDRs, and every address of every workload, which may lie outside of them."""
        own = {
            ip_network(address)
            for key, enrolled in self._enrolled.items()
            if key != without
            for address in enrolled.workload.addresses
        }
        return frozenset({*self._config.mesh_cidrs, *own})

    def _save(self) -> None:
        states = {
            **self._pending,
            **{key: cut_off.state for key, cut_off in self._cut_off.items()},
            **{key: enrolled.state for key, enrolled in self._enrolled.items()},
        }
        self._state_file.save(states.values())


def remove_run(state: EnrolledState) -> None:
    """Remove the link and the network namespace that `interceptor run` made for a workload, and what is left inside."""
    if state.run is None:
        return
    if not state.run.owner.is_alive() and (netns := state.reference.reopen()) is not None:
        with netns:
            end_processes(netns)
    netlink.remove_link(state.run.host_link)
    assert state.reference.path is not None
    kernel_netns.remove_named(Path(state.reference.path))


def _addresses(netns: NetworkNamespace, is_own: Callable[[IPAddress], bool]) -> tuple[IPAddress, ...]:
    found = tuple(found.address for found in netlink.addresses(netns) if is_own(found.address))
    if all(address.is_link_local for address in found):
        raise EnrolmentError(
            f"{netns.description} has no address that others can reach: give a link in it one, then enrol it"
        )
    return found
