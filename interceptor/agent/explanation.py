"""What `interceptor explain` answers: the steps, each with its evidence, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field

from interceptor.policy.verdict import Denial, Reason, Transport, Verdict

UNTOUCHED = "untouched"  # the verdict on a connection that is none of the mesh's business


@dataclass(slots=True)
class Explanation:
    """The steps so far, and in the end the verdict."""

    source: str
    destination: str
    steps: list[dict[str, object]] = field(default_factory=list)
    verdict: str = UNTOUCHED
    transport: str | None = None
    reason: str | None = None

    def step(self, name: str, evidence: str, *, passed: bool = True) -> None:
        """Add one step; `passed` is False when the connection fails here, or may."""
        self.steps.append({"step": name, "ok": passed, "evidence": evidence})

    def decide(self, name: str, verdict: Verdict, mode: str) -> bool:
        """Add what policy said, as the verdict so far; whether it is a permit."""
        if isinstance(verdict, Denial):
            self.deny(name, verdict.reason, verdict.detail)
            return False
        how = "by mutual TLS" if verdict.transport is Transport.MUTUAL_TLS else "in plaintext"
        self.verdict, self.transport = "permit", verdict.transport.value
        self.step(name, f"mode {mode}: permitted, {how}")
        return True

    def deny(self, name: str, reason: Reason, detail: str = "") -> None:
        """Add a step that ends the connection."""
        self.verdict, self.reason, self.transport = "denial", reason.value, None
        self.step(name, f"{detail}: {reason.explanation}" if detail else reason.explanation, passed=False)

    def to_dict(self) -> dict[str, object]:
        """JSON values; the keys are stable."""
        return {
            "source": self.source,
            "destination": self.destination,
            "verdict": self.verdict,
            "transport": self.transport,
            "reason": self.reason,
            "steps": self.steps,
        }
