"""What a handler is given: its workload, the snapshots in force, sockets, limits and where records go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from interceptor.errors import utc
from interceptor.identity.trust_bundle import serial_numbers
from interceptor.policy.policy_set import AddressCheck
from interceptor.policy.verdict import Permit, Reason, Transport
from interceptor.proxy.late_denial import revocation_denial
from interceptor.proxy.recording import begin_record
from interceptor.proxy.refusal import Refusal
from interceptor.proxy.route import as_it_is
from interceptor.workload import Direction

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from datetime import datetime

    from interceptor.enrolment.departed import Departed
    from interceptor.enrolment.registry import Registry
    from interceptor.identity.spiffe_id import SpiffeId
    from interceptor.policy.attempts import OutboundAttempt
    from interceptor.policy.policy_set import PolicySet
    from interceptor.proxy.connections import HandshakeLimit, LiveConnections
    from interceptor.proxy.recording import Recorder
    from interceptor.proxy.route import Locate
    from interceptor.proxy.snapshot import Snapshot
    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.transport.tls import TlsContexts, TlsStream
    from interceptor.workload import Endpoint, IPAddress, Workload


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of everything a peer or an application can make us wait for or hold."""

    unknown_destination_wait: float  # seconds
    handshake_timeout: float  # seconds, TLS and tunnel request together
    connect_timeout: float  # seconds
    connections_per_workload: int
    pending_handshakes: int  # of one workload, inbound


@dataclass(frozen=True, slots=True)
class WorkloadContext:
    """Everything that the connections of one enrolled workload share."""

    subject: Snapshot[Workload]  # its labels and addresses may change
    policy: Snapshot[PolicySet]
    registry: Snapshot[Registry]
    departed: Departed
    tls: Snapshot[TlsContexts | None]
    live: LiveConnections
    handshakes: HandshakeLimit
    recorder: Recorder
    limits: Limits
    # (family) -> a non-blocking TCP socket in the workload's network namespace,
    # which capture leaves alone.
    open_socket: Callable[[int], socket.socket]
    # The same, allowed to use an address that is not the workload's own.
    open_transparent_socket: Callable[[int], socket.socket]
    original_destination: Callable[[socket.socket], Endpoint | None]
    now: Callable[[], datetime]  # the wall clock, aware
    locate: Locate = as_it_is

    @property
    def workload(self) -> Workload:
        """The workload as it is now."""
        return self.subject.value

    def begin(self, direction: Direction) -> ConnectionRecord:
        """A new record, opened now."""
        return begin_record(direction)

    def timestamp(self) -> float:
        """The wall clock in Unix seconds: until when exceptions hold."""
        return self.now().timestamp()

    async def find_workload(self, address: IPAddress) -> Workload | None:
        """Who has `address`; waits a bounded time for one that is not known yet."""
        found = self.registry.value.by_address(address)
        if found is not None:
            return found
        with trio.move_on_after(self.limits.unknown_destination_wait):
            while found is None:
                found = (await self.registry.wait_changed()).by_address(address)
        return found

    async def find_holder(self, address: IPAddress, identity: SpiffeId) -> Workload | None:
        """Who has the address that an identity of a peer came from.

        Waits a bounded time while that is not who the peer says it is: another node's news may be on their way. There are
        none of other trust domains, and where a mismatch is only flagged nobody has to wait for it.
        """
        is_ours = identity.trust_domain == self.workload.identity.trust_domain
        may_wait = is_ours and self.policy.value.address_check is AddressCheck.REFUSE
        with trio.move_on_after(self.limits.unknown_destination_wait if may_wait else 0):
            while not self._has(found := self._holder(address, identity), identity):
                await self.registry.wait_changed()
        return found

    def _holder(self, address: IPAddress, identity: SpiffeId) -> Workload | None:
        found = self.registry.value.by_address(address)
        if not self._has(found, identity):
            gone = self.departed.holder(address, trio.current_time())
            return gone if self._has(gone, identity) else found
        return found

    @staticmethod
    def _has(workload: Workload | None, identity: SpiffeId) -> bool:
        return workload is not None and workload.identity == identity

    async def tls_contexts(self, record: ConnectionRecord) -> TlsContexts:
        """The contexts of the current SVID, which the record notes; waits a bounded time for a valid one."""
        contexts = self.tls.value
        with trio.move_on_after(self.limits.unknown_destination_wait):
            while contexts is None or contexts.svid.not_after <= self.now():
                contexts = await self.tls.wait_changed()
        if contexts is None:
            raise Refusal(Reason.CERTIFICATE_MISSING)
        if contexts.svid.not_after <= self.now():
            ended = utc(contexts.svid.not_after)
            raise Refusal(Reason.CERTIFICATE_MISSING, f"it expired at {ended} and could not be renewed")
        record.own_serials = serial_numbers(contexts.svid.chain)
        self._require_not_revoked(contexts, record)
        return contexts

    def identify(self, stream: TlsStream, contexts: TlsContexts, record: ConnectionRecord) -> SpiffeId:
        """Who the peer is, as our own trust domain names it; PeerRejected when it proved nothing that we believe.

        The record gets what was proven, and by which certificates. What is believed is looked at now, not as it was
        when the handshake began: a revocation that arrives meanwhile closes only what is established.
        """
        bundles = (self.tls.value or contexts).bundles
        chain = stream.verified_chain()
        identity = bundles.identify(chain, self.now())
        record.peer_serials = serial_numbers(chain)
        record.peer_not_after = chain[0].not_valid_after_utc
        if record.direction is Direction.OUTBOUND:
            record.destination_identity = identity
        else:
            record.source_identity = identity
        self._require_not_revoked(self.tls.value or contexts, record)
        return bundles.canonical(identity)

    def canonical(self, identity: SpiffeId | None) -> SpiffeId | None:
        """An identity that was proven, as our own trust domain names it."""
        contexts = self.tls.value
        return identity if identity is None or contexts is None else contexts.bundles.canonical(identity)

    def _require_not_revoked(self, contexts: TlsContexts, record: ConnectionRecord) -> None:
        denial = revocation_denial(record, contexts.bundles)
        if denial is not None:
            raise Refusal(denial.reason, denial.detail)


def permit_to_itself(attempt: OutboundAttempt) -> Permit | None:
    """The permit of a workload that connects to itself; None when it does not.

    Such a connection is captured only if it was begun before the workload's own addresses were known (see
    `kernel/hold`). It goes over the namespace's loopback, as it would have by itself, and no policy is about it.
    """
    target = attempt.destination_workload
    if target is None or target.key != attempt.source.key:
        return None
    return Permit(Transport.PLAINTEXT, note="a workload with itself, over its own loopback")
