"""The rotation of the root as a state machine: which step may be taken, who is not ready for it, what comes of it.

    stable --prepare--> prepared --distribute--> distributed --activate--> activated --retire--> stable
                           '-------- abort --------'--> stable

`prepare` makes new keys. `distribute` puts the new root into the trust document. `activate` lets the new issuer sign,
once every node believes in it. `retire` takes the old root away, once no certificate leads to it any more.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from interceptor.authority.node_record import NodeRecord
from interceptor.errors import AuthorityError, quoted, utc

MAX_LISTED: Final = 5  # laggards that an error message names


class Phase(StrEnum):
    """How far a rotation is."""

    STABLE = "stable"
    PREPARED = "prepared"
    DISTRIBUTED = "distributed"
    ACTIVATED = "activated"


class Step(StrEnum):
    """What an operator can do about it."""

    PREPARE = "prepare"
    DISTRIBUTE = "distribute"
    ACTIVATE = "activate"
    RETIRE = "retire"
    ABORT = "abort"


_FROM: Final = {
    Step.PREPARE: (Phase.STABLE,),
    Step.DISTRIBUTE: (Phase.PREPARED,),
    Step.ACTIVATE: (Phase.DISTRIBUTED,),
    Step.RETIRE: (Phase.ACTIVATED,),
    Step.ABORT: (Phase.PREPARED, Phase.DISTRIBUTED),
}
_NEXT: Final = {
    Phase.STABLE: Step.PREPARE,
    Phase.PREPARED: Step.DISTRIBUTE,
    Phase.DISTRIBUTED: Step.ACTIVATE,
    Phase.ACTIVATED: Step.RETIRE,
}


@dataclass(frozen=True, slots=True)
class RotationState:
    """The phase, since when, and the fingerprints of the root that issues and of the other one, if there are two."""

    phase: Phase
    since: datetime
    active: str
    other: str | None

    def trusted(self) -> tuple[str, ...]:
        """The fingerprints of the roots that belong into the trust document."""
        if self.other is None or self.phase is Phase.PREPARED:
            return (self.active,)
        return (self.active, self.other)

    def after(self, step: Step, now: datetime, new_root: str | None = None) -> "RotationState":
        """The state that a permitted step leads to; `new_root` is the one that `prepare` made."""
        match step:
            case Step.PREPARE:
                return RotationState(Phase.PREPARED, now, self.active, new_root)
            case Step.DISTRIBUTE:
                return RotationState(Phase.DISTRIBUTED, now, self.active, self.other)
            case Step.ACTIVATE:
                assert self.other is not None
                return RotationState(Phase.ACTIVATED, now, self.other, self.active)
            case _:  # retire and abort: the issuing root stays alone
                return RotationState(Phase.STABLE, now, self.active, None)


@dataclass(frozen=True, slots=True)
class Laggard:
    """A node that is not ready for the next step, and why."""

    node: str
    why: str


@dataclass(frozen=True, slots=True)
class RotationStatus:
    """What `ca rotate status` shows: the state, what can come next, and who must be waited for."""

    state: RotationState
    next_step: Step
    laggards: tuple[Laggard, ...]


def laggards(state: RotationState, bundle_hash: str, nodes: Iterable[NodeRecord]) -> tuple[Laggard, ...]:
    """The nodes, sorted, that have not confirmed what the next step needs; revoked ones do not count.

    `bundle_hash` is that of the trust document now.
    """
    found = ((record.name, _lag(state, bundle_hash, record)) for record in nodes if not record.revoked)
    return tuple(Laggard(name, why) for name, why in sorted(found) if why)


def require_permitted(step: Step, state: RotationState, waiting: tuple[Laggard, ...]) -> None:
    """Raise AuthorityError, naming who lags, unless the step may be taken; an abort waits for nobody."""
    if state.phase not in _FROM[step]:
        raise AuthorityError(
            f"cannot {step} a rotation that is {state.phase} since {utc(state.since)}: the next step is "
            f"{_NEXT[state.phase]}"
        )
    if waiting and step is not Step.ABORT:
        listed = ", ".join(f"{laggard.node} ({laggard.why})" for laggard in waiting[:MAX_LISTED])
        more = f" and {len(waiting) - MAX_LISTED} more" if len(waiting) > MAX_LISTED else ""
        raise AuthorityError(
            f"cannot {step} yet, not ready: {listed}{more}: wait, or remove nodes that are gone with "
            "'interceptor ca node remove'"
        )


def status(state: RotationState, bundle_hash: str, nodes: Iterable[NodeRecord]) -> RotationStatus:
    """Where the rotation is, and what it waits for."""
    return RotationStatus(state, _NEXT[state.phase], laggards(state, bundle_hash, nodes))


def _lag(state: RotationState, bundle_hash: str, record: NodeRecord) -> str:
    if state.phase not in (Phase.DISTRIBUTED, Phase.ACTIVATED):
        return ""
    if record.report is None or record.reported_at is None:
        return "has not reported yet"
    if record.report.bundle_hash != bundle_hash and record.report.unkept:
        return f"cannot keep the trust bundle, a restart would lose it: {quoted(record.report.unkept)}"
    if record.report.bundle_hash != bundle_hash:
        return f"uses another trust bundle, last report {utc(record.reported_at)}"
    if state.phase is Phase.DISTRIBUTED:
        return ""
    if record.reported_at <= state.since:
        return f"has not reported since the activation, last report {utc(record.reported_at)}"
    if set(record.report.issuers) - {state.active}:
        return f"still has certificates of the old root, last report {utc(record.reported_at)}"
    return ""
