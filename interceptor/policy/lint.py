"""What is valid and most likely not what its author meant: told by `interceptor policy check`, and never refused."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from interceptor.policy.documents import (
    Action,
    AuthorizationPolicy,
    Document,
    EgressPolicy,
    Head,
    LegacyException,
    PeerAuthentication,
)
from interceptor.policy.egress import restricts
from interceptor.policy.matching import Attribute, Pattern, Projection
from interceptor.policy.modes import width_of
from interceptor.policy.scope import selects
from interceptor.workload import Workload

if TYPE_CHECKING:
    from interceptor.labels import Labels

_IDENTITIES: Final = frozenset(
    (Attribute.PRINCIPAL, Attribute.NAMESPACE, Attribute.SERVICE_ACCOUNT, Attribute.DESTINATION_PRINCIPAL)
)
SOON: Final = timedelta(days=14)


class Inventory:
    """The enrolled workloads, asked by ten thousand documents: what was asked once is remembered."""

    def __init__(self, workloads: Sequence[Workload], root: str) -> None:
        self._workloads = workloads
        self._root = root
        self._values = {
            Attribute.PRINCIPAL: {workload.identity.principal for workload in workloads},
            Attribute.NAMESPACE: {workload.namespace for workload in workloads},
            Attribute.DESTINATION_PRINCIPAL: {workload.identity.principal for workload in workloads},
            Attribute.SERVICE_ACCOUNT: {f"{w.namespace}/{w.service_account}" for w in workloads},
        }
        self._selected: dict[tuple[str, Labels], int] = {}
        self._matched: dict[tuple[Attribute, Pattern], bool] = {}

    def selected_by(self, document: Document) -> int:
        """How many workloads a document is for."""
        key = (document.head.name.namespace, document.head.selector)
        if key not in self._selected:
            self._selected[key] = sum(
                key[0] in (self._root, workload.namespace) and selects(document, workload.labels)
                for workload in self._workloads
            )
        return self._selected[key]

    def matches(self, attribute: Attribute, pattern: Pattern) -> bool:
        """Whether a pattern means any of the workloads' identities."""
        values = self._values[attribute]
        if pattern.projection is Projection.EXACT:
            return pattern.key in values
        key = (attribute, pattern)
        if key not in self._matched:
            self._matched[key] = any(pattern.matches(value) for value in values)
        return self._matched[key]


def warnings(
    documents: Sequence[Document], root: str, now: datetime, inventory: Inventory | None
) -> tuple[str, ...]:
    """One line each; `inventory` None means that nobody knows who is there, and nothing is said of that."""
    found: list[str] = []
    for document in documents:
        found += (f"{document.head.name}: {text}" for text in _of_one(document, now))
        if inventory is not None:
            found += (f"{document.head.name}: {text}" for text in _against(document, inventory))
    return (*found, *_of_all(documents, root))


def expiring(documents: Iterable[Document], now: datetime) -> tuple[str, ...]:
    """One line for each exception that has ended, or ends soon."""
    return tuple(
        f"{document.head.name}: {text}"
        for document in documents
        if isinstance(document, LegacyException)
        for text in _of_one(document, now)
    )


def _of_one(document: Document, now: datetime) -> Iterator[str]:
    match document:
        case PeerAuthentication() if document.ports and not document.head.selector:
            yield "portLevelMtls is ignored, it only applies together with a selector"
        case AuthorizationPolicy() if not document.rules and document.action is Action.DENY:
            yield "a DENY without rules never matches, 'rules: [{}]' would deny everything"
        case LegacyException() if document.expires <= now:
            yield f"its last day was {document.last_day}, remove it"
        case LegacyException() if document.expires <= now + SOON:
            yield f"its last day is {document.last_day}, {document.owner} should see to it"
        case EgressPolicy() if restricts(document):
            yield "it holds for TCP only: what its workloads send by UDP (DNS too) or any other protocol passes"
        case _:
            return


def _against(document: Document, inventory: Inventory) -> Iterator[str]:
    if not inventory.selected_by(document):
        wanted = f" with {document.head.selector}" if document.head.selector else ""
        yield f"no enrolled workload in its scope{wanted}, so it selects nothing"
    for attribute, pattern in _patterns(document):
        if not inventory.matches(attribute, pattern):
            yield f"{pattern.text} matches no enrolled workload"


def _patterns(document: Document) -> Iterator[tuple[Attribute, Pattern]]:
    """The patterns of identities in the rules of an AuthorizationPolicy or an EgressPolicy."""
    match document:
        case AuthorizationPolicy():
            rules = document.rules
        case EgressPolicy():
            rules = document.allow or ()
        case _:
            return
    for match in (match for rule in rules for clause in rule.clauses for each in clause for match in each):
        if match.attribute in _IDENTITIES:
            yield from ((match.attribute, p) for p in (*match.patterns, *match.not_patterns))


def _of_all(documents: Sequence[Document], root: str) -> Iterator[str]:
    """Several documents of one width for the same workloads, of which Istio would take the oldest."""
    first: dict[object, Head] = {}
    for document in documents:
        if isinstance(document, PeerAuthentication):
            head = document.head
            key = (width_of(document, root), head.name.namespace, head.selector)
            other = first.setdefault(key, head)
            if other is not head:
                yield (
                    f"{head.name}: is for the same workloads as {other.name}; Istio would take the older one, here the "
                    "stricter one counts"
                )
