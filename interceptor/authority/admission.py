"""Whether a request may be looked at, and which identities a node may ask for; clock and chance are the caller's."""

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from interceptor.authority.refusal import Code, Refused
from interceptor.errors import InvalidInput, quoted
from interceptor.identity.spiffe_id import SERVICE_ACCOUNT, SpiffeId, validate_name

MAX_SKEW: Final = timedelta(seconds=60)  # as much as certificates are back-dated
MAX_NONCES: Final = 200_000
MAX_NONCES_OF_NODE: Final = 100_000  # one node cannot use up the memory of all
MAX_LIMITED_KEYS: Final = 10_000
_PATTERN = re.compile(r"ns/([^/]+)/sa/([^/]+)")
ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class AllowPattern:
    """Identities that a node may have: `ns/<namespace or *>/sa/<account, * or prefix*>`; `str(x)` is that text."""

    namespace: str
    service_account: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Text to a pattern; raises InvalidInput."""
        parts = _PATTERN.fullmatch(text)
        if parts is None:
            raise InvalidInput(
                f"pattern {quoted(text)} is not valid, expected ns/<namespace or *>/sa/<account, * or prefix*>"
            )
        namespace, account = parts.groups()
        if namespace != ANY:
            validate_name("namespace", namespace)
        if account != ANY:
            # What a prefix ends with need not be the end of a name: 'web-*'.
            validate_name(SERVICE_ACCOUNT, f"{account[:-1]}0" if account.endswith(ANY) else account)
        return cls(namespace, account)

    def matches(self, spiffe_id: SpiffeId) -> bool:
        """Say whether the identity, whatever its trust domain, is one of these."""
        if self.namespace not in (ANY, spiffe_id.namespace):
            return False
        if self.service_account.endswith(ANY):
            return spiffe_id.service_account.startswith(self.service_account[:-1])
        return self.service_account == spiffe_id.service_account

    def __str__(self) -> str:
        return f"ns/{self.namespace}/sa/{self.service_account}"


def allowed(patterns: Iterable[AllowPattern], spiffe_id: SpiffeId) -> bool:
    """Say whether one of the patterns matches; without patterns nothing is allowed."""
    return any(pattern.matches(spiffe_id) for pattern in patterns)


def check_clock(node: str, at: datetime, now: datetime) -> None:
    """Raise Refused(clock_skew) if the request was made, by the node's clock, more than 60 s from now."""
    skew = at - now
    if abs(skew) > MAX_SKEW:
        seconds = f"{abs(skew).total_seconds():.0f} s"
        side = "ahead of" if skew > timedelta(0) else "behind"
        raise Refused(
            Code.CLOCK_SKEW,
            f"{node}'s clock is {seconds} {side} the authority's, at most {MAX_SKEW.total_seconds():.0f} s are allowed",
        )


class ReplayWindow:
    """The requests of the last two minutes, by node and nonce; older ones fail check_clock."""

    def __init__(self, limit: int = MAX_NONCES, limit_of_node: int = MAX_NONCES_OF_NODE) -> None:
        self._limit = limit
        self._limit_of_node = limit_of_node
        self._count: Counter[str] = Counter()
        self._seen: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    def admit(self, node: str, nonce: str, at: datetime, now: datetime) -> None:
        """Remember a request; raise Refused for a wrong clock, one seen before, or too many to remember."""
        check_clock(node, at, now)
        self._forget(now)
        if (node, nonce) in self._seen:
            raise Refused(
                Code.REQUEST_REPLAYED, f"a request of {node} with nonce {quoted(nonce)} was seen before"
            )
        if self._count[node] >= self._limit_of_node or len(self._seen) >= self._limit:
            raise Refused(
                Code.RATE_LIMITED,
                f"more than {self._limit_of_node} requests of {node}, or {self._limit} of all, within two minutes",
            )
        self._seen[node, nonce] = now
        self._count[node] += 1

    def _forget(self, now: datetime) -> None:
        # A request is acceptable until `at` + 60 s, and `at` is at most 60 s after it was seen.
        while self._seen:
            key, seen_at = next(iter(self._seen.items()))
            if abs(now - seen_at) <= 2 * MAX_SKEW:  # or else a clock that is set back would fill the window
                return
            del self._seen[key]
            self._count[key[0]] -= 1
            if not self._count[key[0]]:
                del self._count[key[0]]


class RateLimiter:
    """A bucket of tokens for each key (a node, or an address without one), filled steadily; seconds are monotonic."""

    def __init__(self, per_second: float, burst: int, limit: int = MAX_LIMITED_KEYS) -> None:
        self._per_second = per_second
        self._burst = burst
        self._limit = limit
        self._buckets: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # fill at an instant; oldest use first

    def take(self, key: str, now: float) -> None:
        """Count one request; raise Refused(rate_limited) when the bucket is empty, and say when it will not be."""
        fill, since = self._buckets.pop(key, (float(self._burst), now))
        fill = min(self._burst, fill + max(now - since, 0.0) * self._per_second)
        self._buckets[key] = (fill - 1 if fill >= 1 else fill, now)
        if len(self._buckets) > self._limit:
            self._buckets.popitem(last=False)
        if fill < 1:
            wait = (1 - fill) / self._per_second
            raise Refused(
                Code.RATE_LIMITED,
                f"{key} made more than {self._burst} requests at once and {self._per_second:g} a second, "
                f"try again in {wait:.1f} s",
            )
