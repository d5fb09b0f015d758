"""A condition of ours in an object's status: read from what the API shows, and the same value is what we want there.

Source: kubernetes.io, "API Conventions", "Typical status properties": of each type one, which one controller owns; and
"Pod Lifecycle", "Pod readiness": the types of others than Kubernetes have a domain as their prefix.
"""

import sys
from dataclasses import dataclass
from typing import Any, Final

POD_CONDITION: Final = "interceptor.io/Enrolled"
POLICY_CONDITION: Final = "interceptor.io/Accepted"
MAX_MESSAGE: Final = 1024
MAX_DIGITS: Final = 19


@dataclass(frozen=True, slots=True)
class Condition:
    """What it says: whether it holds, a word for why, and a line for a person."""

    holds: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Told:
    """A condition as the API has it: since when it holds or does not, and of which generation of the object it is."""

    condition: Condition
    since: str = ""
    generation: int | None = None


def told(value: object, sort: str) -> Told | None:
    """The condition of type `sort` of an object in JSON; None when there is none, or one that we did not write so.

    Never raises: what others wrote into a status must not make the object unusable.
    """
    status = value.get("status") if isinstance(value, dict) else None
    listed = status.get("conditions") if isinstance(status, dict) else None
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and each.get("type") == sort:
            return _told(each)
    return None


def _told(value: dict[str, Any]) -> Told | None:
    texts = [value.get(name) or "" for name in ("reason", "message", "lastTransitionTime")]
    status = value.get("status")
    if status not in ("True", "False") or not all(
        isinstance(text, str) and len(text) <= MAX_MESSAGE for text in texts
    ):
        return None
    # Many pods say the same: one copy of each text.
    reason, message, since = map(sys.intern, texts)
    return Told(Condition(status == "True", reason, message), since, _number(value.get("observedGeneration")))


def _number(value: object) -> int | None:
    """Istio's definitions let it be written as a text too."""
    if isinstance(value, str) and len(value) <= MAX_DIGITS and value.isdecimal():
        return int(value)
    return value if type(value) is int else None


def one_line(text: str, limit: int = MAX_MESSAGE) -> str:
    """The text in ASCII without line breaks, at most so long: others' words are in it, and the API counts bytes."""
    plain = "".join(each if " " <= each <= "~" else " " for each in text[: limit + 1])
    return plain if len(plain) <= limit else f"{plain[: limit - 3]}..."
