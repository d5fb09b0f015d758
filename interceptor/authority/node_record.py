"""What the authority knows of one node."""

from dataclasses import dataclass
from datetime import datetime

from interceptor.authority.admission import AllowPattern
from interceptor.authority.reports import NodeReport


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node that has joined: what it may ask for, and what it last reported (`reported_at` by our own clock)."""

    name: str
    allowed: tuple[AllowPattern, ...]
    joined_at: datetime
    revoked: bool
    report: NodeReport | None
    reported_at: datetime | None
