"""What is valid and most likely not what its author meant: told by `interceptor policy check`, and never refused."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from interceptor.policy.documents import (
    Action,
    AuthorizationPolicy,
    Document,
    Head,
    LegacyException,
    PeerAuthentication,
)
from interceptor.policy.matching import Attribute, Pattern
from interceptor.policy.modes import width_of
from interceptor.policy.scope import selects
from interceptor.workload import Workload

SOON: Final = timedelta(days=14)


def warnings(
    documents: Sequence[Document], root: str, now: datetime, workloads: Sequence[Workload] | None
) -> tuple[str, ...]:
    """One line each; `workloads` None means that nobody knows who is there, and nothing is said of that."""
    found: list[str] = []
    for document in documents:
        found += (f"{document.head.name}: {text}" for text in _of_one(document, now))
        if workloads is not None:
            found += (
                f"{document.head.name}: {text}" for text in _against_inventory(document, root, workloads)
            )
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
            yield f"ended at {document.expires:%Y-%m-%d}, remove it"
        case LegacyException() if document.expires <= now + SOON:
            yield f"ends at {document.expires:%Y-%m-%d}, {document.owner} should see to it"
        case _:
            return


def _against_inventory(document: Document, root: str, workloads: Sequence[Workload]) -> Iterator[str]:
    if not any(
        applies(document.head, root, workload) and selects(document, workload.labels)
        for workload in workloads
    ):
        wanted = f" with {document.head.selector}" if document.head.selector else ""
        yield f"no enrolled workload in its scope{wanted}, so it selects nothing"
    for attribute, pattern in _patterns(document):
        if not any(pattern.matches(value) for value in _values(attribute, workloads)):
            yield f"{pattern.text} matches no enrolled workload"


def applies(head: Head, root: str, workload: Workload) -> bool:
    """Whether a workload is in the namespaces that a document is for."""
    return head.name.namespace in (root, workload.namespace)


def _patterns(document: Document) -> Iterator[tuple[Attribute, Pattern]]:
    """The patterns of identities in the rules of an AuthorizationPolicy."""
    if not isinstance(document, AuthorizationPolicy):
        return
    for rule in document.rules:
        for clause in rule.clauses:
            for alternative in clause:
                for match in alternative:
                    if match.attribute <= Attribute.SERVICE_ACCOUNT:
                        yield from ((match.attribute, p) for p in (*match.patterns, *match.not_patterns))


def _values(attribute: Attribute, workloads: Iterable[Workload]) -> Iterator[str]:
    for workload in workloads:
        if attribute is Attribute.PRINCIPAL:
            yield workload.identity.principal
        elif attribute is Attribute.NAMESPACE:
            yield workload.namespace
        else:
            yield f"{workload.namespace}/{workload.service_account}"


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
