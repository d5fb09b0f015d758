"""A connection that is not carried: the outcome that a handler raises, and that its record keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interceptor.policy.verdict import Denial, Reason

if TYPE_CHECKING:
    from interceptor.errors import PeerRejected
    from interceptor.policy.verdict import Permit, Verdict
    from interceptor.telemetry.connection_record import ConnectionRecord


class Refusal(Exception):  # noqa: N818 - an outcome, not a fault
    """This connection ends here, for a reason that goes into its record."""

    def __init__(self, reason: Reason, detail: str = "", *, denial: Denial | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
        self.denial = denial or Denial(reason, detail)


_REASONS = {reason.value: reason for reason in Reason}


def refusal_of(rejected: PeerRejected) -> Refusal:
    """The refusal of a peer that did not prove an identity; its reason is one of the closed set."""
    return Refusal(_REASONS[rejected.reason], str(rejected))


def require_permit(verdict: Verdict, record: ConnectionRecord) -> Permit:
    """The permit that the next stage demands; Refusal when it is a denial."""
    record.decide(verdict)
    if isinstance(verdict, Denial):
        raise Refusal(verdict.reason, verdict.detail, denial=verdict)
    return verdict
