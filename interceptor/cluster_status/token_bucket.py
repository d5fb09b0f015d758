"""How often something may be done: so many times at once, and so many a second after that."""

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Full at first; `now` is in seconds of a clock that only goes on."""

    burst: int
    per_second: float
    _tokens: float = -1.0
    _at: float = 0.0

    def take(self, now: float) -> bool:
        """Whether it may be done now; if so, it counts as done."""
        self._fill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _fill(self, now: float) -> None:
        if self._tokens < 0:
            self._tokens = self.burst
        else:
            self._tokens = min(self.burst, self._tokens + max(now - self._at, 0.0) * self.per_second)
        self._at = now
