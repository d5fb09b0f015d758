"""Which mode holds for a port of a workload, and which PeerAuthentication said so; evaluated directly.

The rules are those of istio.io, "Concepts / Security / Authentication policies" and "Reference / PeerAuthentication":
the narrowest matching document wins (workload-specific, namespace-wide, mesh-wide); "when more than one
workload-specific peer authentication policy matches, Istio picks the oldest one", and of several namespace-wide ones
"ignores the newer policies". Files have no age: of equals, the strictest counts, for each port. It is never weaker than
Istio's choice, whichever is the oldest, and one more STRICT document can never open a port that was closed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from interceptor.labels import NO_LABELS
from interceptor.policy.documents import PeerAuthentication, PolicyName
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.scope import Scope, selects
from interceptor.workload import Workload

_STRICTEST_FIRST: Final = (MtlsMode.STRICT, MtlsMode.PERMISSIVE, MtlsMode.DISABLE)


class Width(StrEnum):
    """How wide a document is meant, the widest first."""

    MESH = "mesh-wide"
    NAMESPACE = "namespace-wide"
    WORKLOAD = "workload-specific"


@dataclass(frozen=True, slots=True)
class ModeDecision:
    """The mode, and the document that gave it; None means the agent's configuration."""

    mode: MtlsMode
    given_by: PolicyName | None

    def __str__(self) -> str:
        return f"{self.mode} by {self.given_by or 'mode in the configuration'}"


@dataclass(frozen=True, slots=True)
class Modes:
    """All PeerAuthentications, and the mode that holds where none of them says anything."""

    _default: MtlsMode
    _scope: Scope[tuple[PeerAuthentication, ...]]
    _root: str

    @classmethod
    def of(cls, default: MtlsMode, documents: Iterable[PeerAuthentication], root: str) -> Self:
        """`documents` in the order of their names."""
        return cls(default, Scope.of(documents, root, lambda group: group), root)

    def at(self, workload: Workload, port: int) -> ModeDecision:
        """The mode for what connects to this port. UNSET: "Inherit from parent, if has one", and so on outwards.

        The configured mode is the outermost parent. (Istio's is PERMISSIVE; ours is what the operator chose.)
        """
        documents = [
            document
            for group in self._scope.around(workload.namespace, workload.labels)
            for document in group
            if selects(document, workload.labels)
        ]
        return self._narrowest(documents, port)

    def mesh_wide(self) -> ModeDecision:
        """The mode where neither namespace nor workload says anything."""
        documents = [document for group in self._scope.around(self._root, NO_LABELS) for document in group]
        return self._narrowest(documents, 0)

    def _narrowest(self, documents: list[PeerAuthentication], port: int) -> ModeDecision:
        decision = ModeDecision(self._default, None)
        ordered = sorted(
            documents, key=lambda document: document.head.name
        )  # of equals the first one is named
        for width in Width:
            equals = [document for document in ordered if width_of(document, self._root) is width]
            decision = strictest(equals, port, decision)
        return decision


def width_of(document: PeerAuthentication, root: str) -> Width:
    """How many workloads a document is meant for."""
    if document.head.selector:
        return Width.WORKLOAD
    return Width.MESH if document.head.name.namespace == root else Width.NAMESPACE


def strictest(equals: Iterable[PeerAuthentication], port: int, parent: ModeDecision) -> ModeDecision:
    """What documents of one width say of a port, each of which inherits what it leaves unset; `parent` without any."""
    found = [
        parent if (mode := mode_of(document, port)) is None else ModeDecision(mode, document.head.name)
        for document in equals
    ]
    return min(found, key=lambda decision: _STRICTEST_FIRST.index(decision.mode), default=parent)


def mode_of(document: PeerAuthentication, port: int) -> MtlsMode | None:
    """What one document says of a port; None when it leaves that to the next wider one.

    Port-level settings "only apply when a workload selector is specified", and without one they are ignored.
    """
    mode = document.ports.get(port) if document.head.selector else None
    return document.mode if mode is None else mode
