"""The text of policy files to documents: all of them, or none and what is wrong with each file."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from interceptor import strict_yaml
from interceptor.errors import InvalidInput, PolicyError, quoted
from interceptor.identity.spiffe_id import SERVICE_ACCOUNT, validate_name
from interceptor.labels import NO_LABELS, Labels
from interceptor.policy.documents import Document, Head, Kind, Place, PolicyName
from interceptor.policy.parse_istio import (
    DRY_RUN_ANNOTATION,
    parse_authorization_policy,
    parse_peer_authentication,
)
from interceptor.policy.parse_own import parse_egress_policy, parse_legacy_exception
from interceptor.policy.reader import Field, Fields
from interceptor.strict_yaml import MappingNode, StrictYamlError, kind_of

MAX_CHARACTERS: Final = 4 * 1024 * 1024  # of one file
MAX_DEPTH: Final = 16  # nine are in use
MAX_DOCUMENTS: Final = 20_000  # of a set
DEFAULT_NAMESPACE: Final = "default"

_ISTIO: Final = ("security.istio.io/v1", "security.istio.io/v1beta1")
_OWN: Final = ("policy.interceptor.io/v1",)
_Parser = Callable[[Head, Fields, bool, str], Document]
_KINDS: Final[Mapping[str, tuple[tuple[str, ...], _Parser]]] = {
    Kind.PEER_AUTHENTICATION: (_ISTIO, parse_peer_authentication),
    Kind.AUTHORIZATION_POLICY: (_ISTIO, parse_authorization_policy),
    Kind.LEGACY_EXCEPTION: (_OWN, parse_legacy_exception),
    Kind.EGRESS_POLICY: (_OWN, parse_egress_policy),
}
# What `kubectl get -o yaml` adds; none of it changes what a document means.
_BOOKKEEPING: Final = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)
_TARGET_REF: Final = "gateways and waypoints are not part of this mesh, select workloads by labels"


def parse_policies(files: Iterable[tuple[str, str]], root_namespace: str) -> tuple[Document, ...]:
    """Names and texts of files to documents; raises PolicyError with the first problem of each file.

    A name may be there once in the whole set.
    """
    documents: list[Document] = []
    problems: list[str] = []
    for name, text in files:
        try:
            documents += parse_file(name, text, root_namespace)
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise PolicyError(*problems)
    return require_unique(documents)


def require_unique(documents: Iterable[Document]) -> tuple[Document, ...]:
    """The documents, if each has a name of its own and they are not too many; raises PolicyError."""
    seen: dict[PolicyName, Head] = {}
    problems = []
    for document in documents:
        head = document.head
        first = seen.setdefault(head.name, head)
        if first is not head:
            problems.append(
                f"{head.place}:1: metadata.name: {head.name} is there twice, first in {first.place}"
            )
    if problems:
        raise PolicyError(*problems)
    if len(seen) > MAX_DOCUMENTS:
        raise PolicyError(f"there are {len(seen)} policy documents, at most {MAX_DOCUMENTS} are allowed")
    return tuple(documents)


def parse_file(name: str, text: str, root_namespace: str) -> tuple[Document, ...]:
    """The documents of one file; raises PolicyError, and nothing else, for the first thing that is wrong."""
    if len(text) > MAX_CHARACTERS:
        raise PolicyError(f"{name}: has {len(text)} characters, at most {MAX_CHARACTERS} are allowed")
    try:
        nodes = strict_yaml.read_documents(text, max_depth=MAX_DEPTH)
    except StrictYamlError as error:
        where = name if error.line is None else f"{name}:{error.line}:{error.column}"
        raise PolicyError(f"{where}: {error.problem}") from None
    return tuple(_document(Field(node, "", name, node.line, node.column), root_namespace) for node in nodes)


def _document(root: Field, root_namespace: str) -> Document:
    if not isinstance(root.node, MappingNode):
        place = f"{root.file}:{root.line}:{root.column}"
        raise PolicyError(f"{place}: expected a document of 'key: value' lines, not {kind_of(root.node)}")
    fields = Fields(Field(root.node, "", root.file, root.line, root.column), root.node, {})
    api_version, kind = fields.get("apiVersion"), fields.get("kind")
    place = f"{root.file}:{root.line}:{root.column}"
    if api_version is None or kind is None:
        raise PolicyError(
            f"{place}: a document needs apiVersion and kind, such as {_ISTIO[0]} and {next(iter(_KINDS))}"
        )
    if kind.text() not in _KINDS:
        raise kind.error(f"{quoted(kind.text())} is not a kind of policy, use one of {', '.join(_KINDS)}")
    versions, parser = _KINDS[kind.text()]
    if api_version.text() not in versions:
        raise api_version.error(f"{quoted(api_version.text())} has no {kind.text()}, use {versions[0]}")
    metadata, spec = fields.get("metadata"), fields.get("spec")
    fields.get("status")  # written by controllers
    fields.end()
    if metadata is None:
        raise PolicyError(f"{place}: metadata: is missing, it gives the document its name and namespace")
    name, dry_run = _metadata(metadata.mapping(), Kind(kind.text()))
    empty = Field(MappingNode({}, root.line, root.column), "spec", root.file, root.line, root.column)
    body = (empty if spec is None or spec.is_null else spec).mapping(_unsupported(name.kind))
    head = Head(name, _selector(body), Place(root.file, root.line))
    document = parser(head, body, dry_run, root_namespace)
    body.end()
    return document


def _unsupported(kind: Kind) -> Mapping[str, str]:
    if kind is not Kind.AUTHORIZATION_POLICY:
        return {}
    return {
        "targetRef": _TARGET_REF,
        "targetRefs": _TARGET_REF,
        "provider": "there are no extension providers, use ALLOW or DENY rules",
    }


def _metadata(fields: Fields, kind: Kind) -> tuple[PolicyName, bool]:
    """The name, and whether the document is only tried out."""
    name = fields.require("name").parse(lambda text: validate_name(SERVICE_ACCOUNT, text))
    namespace = fields.get("namespace")
    found = fields.get("annotations")
    for key in _BOOKKEEPING:
        fields.get(key)
    fields.end()
    dry_run = _dry_run(found, kind) if found else False
    within = (
        DEFAULT_NAMESPACE
        if namespace is None
        else namespace.parse(lambda text: validate_name("namespace", text))
    )
    return PolicyName(within, name, kind), dry_run


def _dry_run(annotations: Field, kind: Kind) -> bool:
    """Whether the annotation of Istio is there; nobody shall think that what is in force is only tried out."""
    values = {key: (field, field.text()) for key, field in annotations.mapping().all()}
    if DRY_RUN_ANNOTATION not in values:
        return False
    field, value = values[DRY_RUN_ANNOTATION]
    if value not in ("true", "false"):
        raise field.error(f'{quoted(value)} is neither "true" nor "false"')
    if value == "true" and kind is not Kind.AUTHORIZATION_POLICY:
        raise field.error(f"only an {Kind.AUTHORIZATION_POLICY} can be tried out, this would be in force")
    return value == "true"


def _selector(spec: Fields) -> Labels:
    """The labels that are wanted; an empty selector is the same as none."""
    found = spec.get("selector")
    if found is None or found.is_null:
        return NO_LABELS
    fields = found.mapping()
    labels = fields.get("matchLabels")
    fields.end()
    if labels is None or labels.is_null:
        return NO_LABELS
    values = {key: field.text() for key, field in labels.mapping().all()}
    try:
        return Labels(values)
    except InvalidInput as error:
        raise labels.error(str(error)) from None
