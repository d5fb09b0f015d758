"""When to renew an SVID and how long to back off: arithmetic on times; chance and clock are the caller's."""

from datetime import datetime, timedelta
from typing import Final

EARLIEST_RENEWAL: Final = 0.5  # half the life is left to outlast an authority that is away
LATEST_RENEWAL: Final = 0.6
LATE: Final = (
    0.75  # whoever is not renewed by then has failed for long, and a quarter of the life is left to help
)
FIRST_BACKOFF: Final = timedelta(seconds=0.5)
MAX_BACKOFF: Final = timedelta(seconds=150)
JITTER: Final = 0.2  # agents that failed together must not come back together
_DOUBLINGS_TO_MAX: Final = 9  # 0.5 s * 2**9 > 150 s; bounds the power for any number of attempts


def renewal_time(issued_at: datetime, not_after: datetime, fraction: float) -> datetime:
    """Say when to renew a certificate that we received at `issued_at`.

    `fraction` is drawn by the caller, uniformly from [0.5, 0.6], anew for each certificate, so that workloads that
    started together do not renew together. Life counts from `issued_at`, not from the certificate's NotBefore, which
    lies in the past to forgive clock skew. A certificate without life left is due at `issued_at`. Raises ValueError
    for a fraction outside the range.
    """
    if not EARLIEST_RENEWAL <= fraction <= LATEST_RENEWAL:
        raise ValueError(f"renewal fraction {fraction} is outside {EARLIEST_RENEWAL} to {LATEST_RENEWAL}")
    return issued_at + max(not_after - issued_at, timedelta(0)) * fraction


def backoff(attempt: int, jitter: float) -> timedelta:
    """Say how long to wait after the failed attempt number `attempt`, counted from 0.

    0.5 s, doubling up to 150 s, then moved by -20 % (jitter 0) to +20 % (jitter just under 1). Raises ValueError for a
    negative attempt or a jitter outside [0, 1).
    """
    if attempt < 0 or not 0 <= jitter < 1:
        raise ValueError(f"attempt {attempt} is negative or jitter {jitter} is outside 0 to 1")
    nominal = min(FIRST_BACKOFF * (1 << min(attempt, _DOUBLINGS_TO_MAX)), MAX_BACKOFF)
    return nominal * (1 - JITTER + 2 * JITTER * jitter)


def remaining_fraction(issued_at: datetime, not_after: datetime, now: datetime) -> float:
    """Say how much of a certificate's life is left at `now`: 1.0 when just received, 0.0 when expired."""
    life = not_after - issued_at
    if life <= timedelta(0):
        return 0.0
    return min(max((not_after - now) / life, 0.0), 1.0)


def is_late(issued_at: datetime, not_after: datetime, now: datetime) -> bool:
    """Say whether a certificate, or an authority's, is past three quarters of its life and was not replaced."""
    return remaining_fraction(issued_at, not_after, now) < 1 - LATE
