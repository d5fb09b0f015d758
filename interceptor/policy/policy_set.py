"""The immutable policy in force, and the two questions that the proxy asks of it."""

from dataclasses import dataclass
from typing import Final

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.verdict import Denial, Permit, Reason, Transport, Verdict
from interceptor.workload import Endpoint, IPAddress, Workload

# ztunnel's numbers: outbound capture, inbound plaintext, inbound tunnel. Relaying to one of them would feed the proxy
# its own connections, and would let an application speak to a listener that trusts the kernel for what it is told.
RESERVED_PORTS: Final = frozenset({15001, 15006, 15008})


@dataclass(frozen=True, slots=True)
class OutboundAttempt:
    """A captured connect: who, where to, and whose address that is (None: nobody's that the registry knows)."""

    source: Workload
    destination: Endpoint
    destination_workload: Workload | None


@dataclass(frozen=True, slots=True)
class InboundAttempt:
    """A connection that arrived: for whom, from where, and the identity proven (None: plaintext)."""

    destination_workload: Workload
    destination: Endpoint
    source_address: IPAddress
    source_identity: SpiffeId | None


@dataclass(frozen=True, slots=True)
class PolicySet:
    """One snapshot of policy; deciding reads nothing else, so the same attempt always gets the same verdict."""

    mode: MtlsMode

    def decide_outbound(self, attempt: OutboundAttempt) -> Verdict:
        """May the source connect, and must it be encrypted?

        A destination that the registry does not know is denied in every mode: it lies inside the mesh's CIDRs, and
        plaintext to what may turn out to be an enrolled workload is the leak that this program exists to prevent.
        """
        if (denial := _refuse_destination(attempt.destination)) is not None:
            return denial
        if attempt.destination_workload is None:
            return Denial(
                Reason.UNKNOWN_DESTINATION, f"no workload has the address {attempt.destination.address}"
            )
        return Permit(Transport.PLAINTEXT if self.mode is MtlsMode.DISABLE else Transport.MUTUAL_TLS)

    def decide_inbound(self, attempt: InboundAttempt) -> Verdict:
        """May what arrived reach the application?"""
        if attempt.destination.port in RESERVED_PORTS:
            return _reserved_port(attempt.destination)
        if attempt.source_identity is not None:
            return Permit(Transport.MUTUAL_TLS)
        if self.mode is MtlsMode.STRICT:
            return Denial(
                Reason.PLAINTEXT_REFUSED,
                f"{attempt.source_address} sent plaintext to {attempt.destination_workload.key}, whose mode is STRICT",
            )
        return Permit(Transport.PLAINTEXT)


def _refuse_destination(destination: Endpoint) -> Denial | None:
    """The denial that the address or port alone deserves, whoever asks."""
    if destination.port in RESERVED_PORTS:
        return _reserved_port(destination)
    if destination.address.is_link_local:
        return Denial(Reason.LINK_LOCAL_DESTINATION, f"{destination.address} is link-local")
    return None


def _reserved_port(destination: Endpoint) -> Denial:
    return Denial(
        Reason.RESERVED_PORT, f"port {destination.port} of {destination.address} is the proxy's own"
    )
