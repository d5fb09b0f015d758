"""How one pod of a node stands to the mesh, as a condition of its status.

True is said of a pod whose connections are captured and that has a certificate in force; everything else is False, with
the reason. Of pods that nobody meant to be in the mesh nothing is said, unless something was said before.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from interceptor.cluster.condition import Condition, one_line
from interceptor.cluster.membership import Why
from interceptor.node_pods.pods import NodePod


class PodReason(StrEnum):
    """The closed set of reasons of our own; those of `Why` are beside them, in the same spelling."""

    ENROLLED = "Enrolled"
    CERTIFICATE_LATE = "CertificateLate"  # still served, and not for long any more
    NO_CERTIFICATE = "NoCertificate"
    REFUSED_BY_AUTHORITY = "RefusedByAuthority"
    CERTIFICATE_EXPIRED = "CertificateExpired"
    CERTIFICATE_NOT_YET_VALID = "CertificateNotYetValid"
    CERTIFICATE_REVOKED = "CertificateRevoked"
    NOT_CAPTURED = "NotCaptured"
    ADDRESS_NOT_UNIQUE = "AddressNotUnique"
    ENROLMENT_FAILED = "EnrolmentFailed"
    ENROLLING = "Enrolling"


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """The certificate of an enrolled pod: its state as of `certificate_state`, and what went wrong last.

    `refusal` is the authority's code when it said no, `revocation` why nobody believes the certificate any more.
    """

    state: str
    error: str | None = None
    refusal: str | None = None
    revocation: str | None = None


@dataclass(frozen=True, slots=True)
class PodState:
    """All that is known of one pod; `trouble` is what failed when it was to be taken in or out, `fault` what of its
    capture is not as it must be."""

    pod: NodePod
    trouble: str | None = None
    certificate: CertificateFacts | None = None  # None: it is not enrolled
    fault: str | None = None


_LATE: Final = "late"
_BAD: Final = {
    "expired": (
        PodReason.CERTIFICATE_EXPIRED,
        "its certificate has expired, all its connections are refused",
    ),
    "not_yet_valid": (
        PodReason.CERTIFICATE_NOT_YET_VALID,
        "its certificate is not valid yet by its node's clock, all its connections are refused: set the clock",
    ),
}


def pod_condition(state: PodState) -> Condition | None:
    """What its status shall say, None for nothing."""
    pod = state.pod
    if pod.is_ending or not (pod.is_meshed or pod.told is not None):
        return None
    if not pod.is_meant:
        return _no(reason_of(pod.membership.why), pod.explanation)
    if state.certificate is None:
        return _not_enrolled(state)
    return _enrolled(state, state.certificate)


def is_worth_a_warning(reason: str) -> bool:
    """Whether somebody should look into it: he asked for the mesh and has not got it, or not all of it."""
    return reason not in _MEANT


def _not_enrolled(state: PodState) -> Condition:
    if state.trouble is not None:
        return _no(
            PodReason.ENROLMENT_FAILED, f"it waits, nothing of it passes in plaintext: {state.trouble}"
        )
    if state.pod.workload is None:
        return _no(PodReason.ADDRESS_NOT_UNIQUE, state.pod.explanation)
    return _no(PodReason.ENROLLING, "it is about to be taken into the mesh")


def _enrolled(state: PodState, certificate: CertificateFacts) -> Condition:
    if state.trouble is not None:
        return _no(PodReason.ENROLMENT_FAILED, state.trouble)
    if state.fault is not None:
        return _no(PodReason.NOT_CAPTURED, state.fault)
    if certificate.revocation is not None:
        return _no(
            PodReason.CERTIFICATE_REVOKED, f"all its connections are refused: {certificate.revocation}"
        )
    why = f": {certificate.error}" if certificate.error else ""
    if certificate.state == "missing":
        if certificate.refusal is not None:
            return _no(PodReason.REFUSED_BY_AUTHORITY, f"the authority gives it no certificate{why}")
        return _no(PodReason.NO_CERTIFICATE, f"it has no certificate yet, its connections wait{why}")
    if certificate.state in _BAD:
        reason, text = _BAD[certificate.state]
        return _no(reason, f"{text}{why}")
    if certificate.state == _LATE:
        return Condition(
            True,
            PodReason.CERTIFICATE_LATE,
            one_line(f"in the mesh, but its certificate is not renewed and will end{why}"),
        )
    return Condition(True, PodReason.ENROLLED, one_line(f"in the mesh as {state.pod.membership.identity}"))


def _no(reason: str, text: str) -> Condition:
    return Condition(False, str(reason), one_line(text))


def reason_of(why: Why) -> str:
    """A reason of `Why` in the spelling of conditions: namespace_not_labelled, NamespaceNotLabelled."""
    return "".join(part.capitalize() for part in why.split("_"))


# What somebody meant to be so, or what is over in a moment.
_MEANT: Final = frozenset(
    (
        PodReason.ENROLLED,
        *map(reason_of, (Why.NAMESPACE_NOT_LABELLED, Why.POD_EXCEPTED, Why.FINISHED, Why.ASKED_TO_END)),
    )
)
