"""Which mode holds for a port of a workload, and which PeerAuthentication said so; evaluated directly.

The rules are those of istio.io, "Concepts / Security / Authentication policies" and "Reference / PeerAuthentication":
the narrowest matching document wins (workload-specific, namespace-wide, mesh-wide); "when more than one
workload-specific peer authentication policy matches, Istio picks the oldest one", and of several namespace-wide ones
"ignores the newer policies". Files have no age: of equals, the strictest counts, for each port. It is never weaker than
Istio's choice, whichever is the oldest, and one more STRICT document can never open a port that was closed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from interceptor.labels import Labels
from interceptor.policy.documents import PeerAuthentication, PolicyName
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.remembered import Remembered
from interceptor.policy.scope import Scope, selects
from interceptor.workload import Workload

_STRICTEST_FIRST: Final = (MtlsMode.STRICT, MtlsMode.PERMISSIVE, MtlsMode.DISABLE)
ANY_PORT: Final = 0  # that no document can name


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
class _ModesByPort:
    """The modes of one workload: those of the ports that a document names, and that of all others."""

    by_port: Mapping[int, ModeDecision]
    otherwise: ModeDecision


@dataclass(frozen=True, slots=True)
class Modes:
    """All PeerAuthentications, and the mode that holds where none of them says anything."""

    _default: MtlsMode
    _scope: Scope[tuple[PeerAuthentication, ...]]
    _root: str
    _mesh_wide: ModeDecision
    _known: Remembered[tuple[str, Labels], _ModesByPort] = field(
        default_factory=Remembered, compare=False, repr=False
    )

    @classmethod
    def of(cls, default: MtlsMode, documents: Iterable[PeerAuthentication], root: str) -> Self:
        """`documents` in the order of their names."""
        ordered = tuple(documents)
        mesh_wide = [each for each in ordered if width_of(each, root) is Width.MESH]
        decision = strictest(mesh_wide, 0, ModeDecision(default, None))
        return cls(default, Scope.of(ordered, root, lambda group: group), root, decision)

    def at(self, workload: Workload, port: int) -> ModeDecision:
        """The mode for what connects to this port. UNSET: "Inherit from parent, if has one", and so on outwards.

        The configured mode is the outermost parent. (Istio's is PERMISSIVE; ours is what the operator chose.) What holds
        for a workload is found out once, and remembered.
        """
        key = workload.namespace, workload.labels
        known = self._known.get(key, lambda: self._of_workload(workload))
        return known.by_port.get(port, known.otherwise)

    def mesh_wide(self) -> ModeDecision:
        """The mode where neither namespace nor workload says anything."""
        return self._mesh_wide

    def _of_workload(self, workload: Workload) -> _ModesByPort:
        documents = [
            document
            for group in self._scope.around(workload.namespace, workload.labels)
            for document in group
            if selects(document, workload.labels)
        ]
        documents.sort(key=lambda document: document.head.name)  # of equals the first one is named
        equals: dict[Width, list[PeerAuthentication]] = {width: [] for width in Width}
        for document in documents:
            equals[width_of(document, self._root)].append(document)
        parent = strictest(equals[Width.NAMESPACE], 0, self._mesh_wide)
        return _by_port(equals[Width.WORKLOAD], parent)


def _by_port(equals: list[PeerAuthentication], parent: ModeDecision) -> _ModesByPort:
    """What `strictest` says of each port, without asking every document about every port."""
    general = sorted(((strictest((each,), ANY_PORT, parent), each) for each in equals), key=_strictness)
    named: dict[int, list[PeerAuthentication]] = defaultdict(list)
    for document in equals:
        for port, mode in document.ports.items():
            if mode is not None:
                named[port].append(document)
    by_port = {}
    for port, documents in named.items():
        # Of those that do not name the port, the strictest is behind at most as many as do.
        rest = next((each for _, each in general if each.ports.get(port) is None), None)
        candidates = documents if rest is None else [*documents, rest]
        candidates.sort(key=lambda document: document.head.name)
        by_port[port] = strictest(candidates, port, parent)
    return _ModesByPort(by_port, general[0][0] if general else parent)


def _strictness(found: tuple[ModeDecision, PeerAuthentication]) -> int:
    return _STRICTEST_FIRST.index(found[0].mode)


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
