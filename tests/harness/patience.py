"""How long tests wait before they give up: longer where everything takes a multiple of its usual time."""

from __future__ import annotations

FACTOR = 1.0  # set by who knows that this is such a machine


def patient(seconds: float) -> float:
    """A deadline for this machine."""
    return seconds * FACTOR
