"""What `interceptor explain` answers: the steps, each with its evidence, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from interceptor.policy.verdict import Denial, Permit, Reason, Transport

if TYPE_CHECKING:
    from interceptor.policy.trace import Trace

MOST_STEPS = 200  # of one side's documents; more of them no person reads
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

    def follow(self, name: str, trace: Trace) -> None:
        """Add what policy looked at, and what it said, as the verdict so far."""
        *looked_at, last = (*trace.steps, None) if isinstance(trace.verdict, Permit) else trace.steps
        steps = [step for step in looked_at if step is not None]
        left_out = 0
        for number, step in enumerate(steps):
            if number < MOST_STEPS or step.matters:
                self.step(step.name, step.text)
            else:
                left_out += 1
        if left_out:
            self.step("policy", f"and {left_out} more documents were looked at, none of which matches")
        verdict = trace.verdict
        if isinstance(verdict, Denial):
            assert last is not None
            self.deny(name, verdict.reason, last.text)
            return
        how = "by mutual TLS" if verdict.transport is Transport.MUTUAL_TLS else "in plaintext"
        by = [text for text in (verdict.policy, verdict.exception, verdict.note) if text]
        self.verdict, self.transport = "permit", verdict.transport.value
        self.step(name, f"permitted, {how}" + (f" ({', '.join(by)})" if by else ""))

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
