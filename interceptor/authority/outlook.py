"""How an authority's own certificates stand: what must be renewed, by whom, and whether that is overdue."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from interceptor.identity.authority import Authority
from interceptor.identity.rotation import is_late

_BY_ITSELF: Final = "the service renews it by itself, its log says why it has not; or run 'interceptor ca rotate intermediate'"
_BY_HAND: Final = "put root.key back into its directory, run 'interceptor ca rotate intermediate', and take root.key away again"


@dataclass(frozen=True, slots=True)
class Outlook:
    """Of one certificate: `state` is valid, due, late or expired; `remedy` says what to do, empty for nothing."""

    state: str
    remedy: str = ""

    @property
    def is_overdue(self) -> bool:
        return self.state in ("late", "expired")


def intermediate_outlook(issuer: Authority, now: datetime) -> Outlook:
    """Renewed at half its life, by itself where the root key is; late at three quarters."""
    begins, ends = issuer.intermediate.not_valid_before_utc, issuer.not_after
    if not issuer.needs_intermediate(now):
        return Outlook("valid")
    remedy = _BY_HAND if issuer.root_key is None else _BY_ITSELF
    if ends <= now:
        return Outlook("expired", remedy)
    return Outlook("late" if is_late(begins, ends, now) else "due", remedy)


def root_outlook(issuer: Authority, now: datetime) -> Outlook:
    """Replaced by a rotation; late at three quarters of its life, when the nodes say so too."""
    root, remedy = issuer.root, "begin with 'interceptor ca rotate prepare'"
    if root.not_valid_after_utc <= now:
        return Outlook("expired", remedy)
    if is_late(root.not_valid_before_utc, root.not_valid_after_utc, now):
        return Outlook("late", remedy)
    return Outlook("valid")
