"""The immutable policy in force, and the two questions that the proxy asks of it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.labels import Labels
from interceptor.policy.attempts import InboundAttempt, OutboundAttempt
from interceptor.policy.authorization import Authorization, Outcome
from interceptor.policy.documents import (
    ROOT_NAMESPACE,
    AuthorizationPolicy,
    Document,
    EgressPolicy,
    Kind,
    LegacyException,
    PeerAuthentication,
    PolicyName,
)
from interceptor.policy.egress import (
    Egress,
    Exceptions,
    plaintext_consent,
    refusal_of_plaintext,
    refusing_plaintext,
    restricts,
)
from interceptor.policy.matching import Facts
from interceptor.policy.modes import ModeDecision, Modes
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.scope import selects
from interceptor.policy.verdict import Denial, Permit, Reason, Transport, Verdict
from interceptor.workload import Direction, Endpoint, Workload

__all__ = ["RESERVED_PORTS", "AddressCheck", "InboundAttempt", "OutboundAttempt", "PolicySet"]

# ztunnel's numbers: outbound capture, inbound plaintext, inbound tunnel. Relaying to one of them would feed the proxy
# its own connections, and would let an application speak to a listener that trusts the kernel for what it is told.
RESERVED_PORTS: Final = frozenset({15001, 15006, 15008})
# A workload with this label is denied everything until the AuthorizationPolicy that it names, in its own namespace, is
# there: between its start and the arrival of its policy nobody slips through.
REQUIRED_POLICY_LABEL: Final = "policy.interceptor.io/requires"
MOST_NAMED: Final = 10  # policies in one denial

D = TypeVar("D", bound=Document)


class AddressCheck(StrEnum):
    """What to do when a peer's identity is not that of the workload which has its address by the registry."""

    REFUSE = "REFUSE"
    FLAG = "FLAG"


@dataclass(frozen=True, slots=True)
class PolicySet:
    """One snapshot of policy; deciding reads nothing else, so the same attempt always gets the same verdict.

    `mode` holds where no PeerAuthentication says anything. `pending`, when it is not empty, says why the documents
    could not be read when the agent started: then everything is denied that they might have denied.
    """

    mode: MtlsMode
    documents: tuple[Document, ...] = ()
    root_namespace: str = ROOT_NAMESPACE
    address_check: AddressCheck = AddressCheck.REFUSE
    pending: str = ""
    modes: Modes = field(init=False, compare=False, repr=False)
    authorization: Authorization = field(init=False, compare=False, repr=False)
    exceptions: Exceptions = field(init=False, compare=False, repr=False)
    egress: Egress = field(init=False, compare=False, repr=False)
    by_name: Mapping[PolicyName, Document] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Index the documents, whose order means nothing; raises ValueError when a name is there twice."""
        documents = tuple(sorted(self.documents, key=_in_order))
        by_name = {document.head.name: document for document in documents}
        if len(by_name) != len(documents):
            names = Counter(document.head.name for document in documents)
            raise ValueError(f"{names.most_common(1)[0][0]} is there twice")
        root = self.root_namespace
        for name, value in (
            ("documents", documents),
            ("modes", Modes.of(self.mode, _of_type(documents, PeerAuthentication), root)),
            ("authorization", Authorization.of(_of_type(documents, AuthorizationPolicy), root)),
            ("exceptions", Exceptions.of(_of_type(documents, LegacyException), root)),
            ("egress", Egress.of(_of_type(documents, EgressPolicy), root)),
            ("by_name", by_name),
        ):
            object.__setattr__(self, name, value)

    def capturing(self, namespace: str, labels: Labels) -> bool:
        """Whether everything that such a workload connects to must be asked about, and not only what is the mesh's."""
        return bool(self.pending or self.egress.restricting(namespace, labels))

    def capturing_strangers(self) -> bool:
        """The same of a workload of which nothing is known yet."""
        return bool(self.pending) or any(
            isinstance(document, EgressPolicy) and restricts(document) for document in self.documents
        )

    def decide_outbound(self, attempt: OutboundAttempt) -> Verdict:
        """May the source connect, and must it be encrypted?

        A destination that the registry does not know is denied in every mode: it lies inside the mesh's CIDRs, and
        plaintext to what may turn out to be an enrolled workload is the leak that this program exists to prevent. Only
        a LegacyException that names the address lets plaintext out to it. One that is certainly not in the mesh is
        reached in plaintext, unless the source's own side refuses that.
        """
        source = attempt.source
        if (denial := refuse_destination(attempt) or self.refuse_pending(source)) is not None:
            return denial
        facts = outbound_facts(attempt)
        transport = self._outbound_transport(attempt, facts)
        if isinstance(transport, Denial):
            return transport
        allowed, name = self.egress.allows(source, facts)
        if not allowed:
            return egress_denial(attempt, self.egress.listing(source))
        return Permit(transport.transport, _text(name), transport.exception)

    def _outbound_transport(self, attempt: OutboundAttempt, facts: Facts) -> Permit | Denial:
        """How it would travel; a denial when the only way is plaintext that this side has not agreed to."""
        source, target = attempt.source, attempt.destination_workload
        if target is None:
            exception = self.exceptions.covering(Direction.OUTBOUND, source, facts, attempt.at)
            if exception is not None:
                return Permit(Transport.PLAINTEXT, exception=str(exception))
            return to_nobody_of_ours(attempt, self.egress.about_plaintext(source, facts), facts)
        mode = self.modes.at(target, attempt.destination.port)
        if mode.mode is not MtlsMode.DISABLE:
            return Permit(Transport.MUTUAL_TLS)
        agreed, why = plaintext_consent(
            self.egress.about_plaintext(source, facts), source, facts, mode, self.modes.mesh_wide()
        )
        if agreed:
            return Permit(Transport.PLAINTEXT)
        exception = self.exceptions.covering(Direction.OUTBOUND, source, facts, attempt.at)
        if exception is not None:
            return Permit(Transport.PLAINTEXT, exception=str(exception))
        return plaintext_egress_refused(why, mode)

    def decide_inbound(self, attempt: InboundAttempt) -> Verdict:
        """May what arrived reach the application?"""
        workload = attempt.destination_workload
        if attempt.destination.port in RESERVED_PORTS:
            return reserved_port(attempt.destination)
        if (denial := self.refuse_pending(workload)) is not None:
            return denial
        mismatch = address_mismatch(attempt)
        if mismatch and self.address_check is AddressCheck.REFUSE:
            return Denial(Reason.SOURCE_ADDRESS_MISMATCH, mismatch)
        facts = inbound_facts(attempt)
        transport = self._inbound_transport(attempt, facts)
        if isinstance(transport, Denial):
            return transport
        outcome = self.authorization.decide(workload, facts)
        if outcome.permitted:
            return Permit(
                transport.transport,
                _text(outcome.by),
                transport.exception,
                mismatch or address_unknown(attempt),
                outcome.dry_run,
            )
        return authorization_denial(attempt, outcome)

    def _inbound_transport(self, attempt: InboundAttempt, facts: Facts) -> Permit | Denial:
        """How it came; a denial when that is plaintext and neither the mode nor an exception takes that."""
        if attempt.source_identity is not None:
            return Permit(Transport.MUTUAL_TLS)
        workload = attempt.destination_workload
        mode = self.modes.at(workload, attempt.destination.port)
        if mode.mode is not MtlsMode.STRICT:
            return Permit(Transport.PLAINTEXT)
        exception = self.exceptions.covering(Direction.INBOUND, workload, facts, attempt.at)
        if exception is not None:
            return Permit(Transport.PLAINTEXT, exception=str(exception))
        return plaintext_refused(attempt, mode)

    def refuse_pending(self, workload: Workload) -> Denial | None:
        """The denial when a policy that must be known before anything is decided for this workload is not."""
        if self.pending:
            return Denial(Reason.POLICY_PENDING, self.pending)
        required = workload.labels.get(REQUIRED_POLICY_LABEL)
        if required is None:
            return None
        name = PolicyName(workload.namespace, required, Kind.AUTHORIZATION_POLICY)
        lacking = _lacking(self.by_name.get(name), workload)
        if not lacking:
            return None
        return Denial(Reason.POLICY_PENDING, f"{workload.key} requires {name}, which {lacking}", str(name))


def _lacking(required: Document | None, workload: Workload) -> str:
    """Why a policy decides nothing for a workload that must not be without it; empty when it does."""
    if not isinstance(required, AuthorizationPolicy):
        return "is not there"
    if required.dry_run:
        return "is in dry run only"
    return "" if selects(required, workload.labels) else "does not select it"


def refuse_destination(attempt: OutboundAttempt) -> Denial | None:
    """The denial that the address or port alone deserves, whoever asks.

    An IPv4 address of one link may be that of a node's name server or of a cloud's metadata, and nobody else's of the
    mesh; an IPv6 one means nothing without its link, which is not known any more.
    """
    destination = attempt.destination
    if destination.port in RESERVED_PORTS:
        return reserved_port(destination)
    is_outside = attempt.is_outside and destination.address.version == 4
    if destination.address.is_link_local and not is_outside:
        return Denial(Reason.LINK_LOCAL_DESTINATION, f"{destination.address} is link-local")
    return None


def reserved_port(destination: Endpoint) -> Denial:
    """The denial of a port that is the proxy's own."""
    return Denial(
        Reason.RESERVED_PORT, f"port {destination.port} of {destination.address} is the proxy's own"
    )


def unknown_destination(attempt: OutboundAttempt) -> Denial:
    """The denial of an address that is nobody's."""
    return Denial(Reason.UNKNOWN_DESTINATION, f"no workload has the address {attempt.destination.address}")


def to_nobody_of_ours(
    attempt: OutboundAttempt, policies: list[EgressPolicy], facts: Facts
) -> Permit | Denial:
    """What becomes of a connection to an address that no workload has; `policies` are those of the source."""
    if not attempt.is_outside:
        return unknown_destination(attempt)
    if (refusing := refusing_plaintext(policies, facts)) is not None:
        refusal = refusal_of_plaintext(refusing, facts)
        return Denial(Reason.PLAINTEXT_EGRESS_REFUSED, refusal, str(refusing))
    return Permit(Transport.PLAINTEXT)


def plaintext_egress_refused(why: str, mode: ModeDecision) -> Denial:
    """The denial of plaintext by the source's own side."""
    return Denial(Reason.PLAINTEXT_EGRESS_REFUSED, why, _text(mode.given_by))


def egress_denial(attempt: OutboundAttempt, listing: list[EgressPolicy]) -> Denial:
    """The denial of a destination that is on none of the allow lists."""
    detail = f"{attempt.destination} is on no allow list of {attempt.source.key}"
    shown = ", ".join(str(policy.head.name) for policy in listing[:MOST_NAMED])
    more = len(listing) - MOST_NAMED
    return Denial(Reason.EGRESS_DENIED, detail, f"{shown} and {more} more" if more > 0 else shown)


def plaintext_refused(attempt: InboundAttempt, mode: ModeDecision) -> Denial:
    """The denial of plaintext by STRICT mode."""
    detail = (
        f"{attempt.source_address} sent plaintext to {attempt.destination_workload.key}, whose mode is STRICT"
    )
    return Denial(Reason.PLAINTEXT_REFUSED, detail, _text(mode.given_by))


def authorization_denial(attempt: InboundAttempt, outcome: Outcome) -> Denial:
    """The denial by AuthorizationPolicies."""
    if outcome.by is None:
        detail = f"no ALLOW policy of {attempt.destination_workload.key} matches {peer(attempt)}"
        return Denial(Reason.NO_ALLOW_MATCHED, detail, dry_run=outcome.dry_run)
    return Denial(
        Reason.POLICY_DENIED,
        f"{outcome.by} matches {peer(attempt)}",
        str(outcome.by),
        outcome.dry_run,
    )


def inbound_facts(attempt: InboundAttempt) -> Facts:
    """What the patterns see of a connection that arrived."""
    return Facts(attempt.source_address, attempt.destination, attempt.source_identity)


def outbound_facts(attempt: OutboundAttempt) -> Facts:
    """What the patterns see of a connection that leaves."""
    source, target = attempt.source, attempt.destination_workload
    return Facts(
        source.addresses[0],
        attempt.destination,
        source.identity,
        None if target is None else target.identity,
    )


def address_mismatch(attempt: InboundAttempt) -> str:
    """What is wrong with the address that an identity came from; empty when the registry has no objection.

    Of our own trust domain the registry knows everyone, so whom it does not know at that address is not there. Of other
    trust domains it knows nobody (see `address_unknown`), but none of them has the address of one of our workloads.
    """
    holder, identity = attempt.address_holder, attempt.source_identity
    if identity is None or (holder is not None and holder.identity == identity):
        return ""
    came = f"{identity} came from {attempt.source_address}"
    if holder is not None:
        return f"{came}, which belongs to {holder.key} ({holder.identity})"
    return "" if _is_foreign(attempt, identity) else f"{came}, which no workload is known to have"


def address_unknown(attempt: InboundAttempt) -> str:
    """A note on an identity that cannot be held against its address; empty when it can."""
    identity = attempt.source_identity
    if identity is None or attempt.address_holder is not None or not _is_foreign(attempt, identity):
        return ""
    return f"{identity} is of another trust domain, whose addresses are not known here"


def _is_foreign(attempt: InboundAttempt, identity: SpiffeId) -> bool:
    return identity.trust_domain != attempt.destination_workload.identity.trust_domain


def peer(attempt: InboundAttempt) -> str:
    """Who connects, in a message."""
    if attempt.source_identity is None:
        return f"plaintext from {attempt.source_address}"
    return f"{attempt.source_identity.principal} from {attempt.source_address}"


def _of_type(documents: Iterable[Document], wanted: type[D]) -> tuple[D, ...]:
    return tuple(document for document in documents if isinstance(document, wanted))


def _in_order(document: Document) -> tuple[str, str, str]:
    """As names are ordered; a tuple is compared several times as fast."""
    name = document.head.name
    return name.namespace, name.name, name.kind


def _text(name: PolicyName | None) -> str:
    return "" if name is None else str(name)
