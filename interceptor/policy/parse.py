"""The text of policy files to documents: all of them, or none and what is wrong with each file."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from interceptor import strict_yaml
from interceptor.errors import InvalidInput, PolicyError, quoted
from interceptor.identity.spiffe_id import validate_dotted_name, validate_name
from interceptor.labels import NO_LABELS, Labels
from interceptor.policy.documents import Document, Head, Kind, Place, PolicyName
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.parse_istio import (
    DRY_RUN_ANNOTATION,
    parse_authorization_policy,
    parse_peer_authentication,
)
from interceptor.policy.parse_own import parse_egress_policy, parse_legacy_exception
from interceptor.policy.reader import Field, Fields
from interceptor.strict_yaml import (
    ListNode,
    MappingNode,
    Part,
    ScalarNode,
    StrictYamlError,
    kind_of,
    split_documents,
)

MAX_CHARACTERS: Final = 4 * 1024 * 1024  # of one document, or of a file that cannot be cut into them
MAX_FILE_CHARACTERS: Final = 64 * 1024 * 1024
MAX_DEPTH: Final = 16  # eleven are in use
MAX_KEYS: Final = 1000  # of one mapping
MAX_DOCUMENTS: Final = 20_000  # of a set
DEFAULT_NAMESPACE: Final = "default"

_ISTIO: Final = ("security.istio.io/v1", "security.istio.io/v1beta1")
_OWN: Final = ("policy.interceptor.io/v1",)
_Parser = Callable[[Head, Fields, bool, MeshNames], Document]
_KINDS: Final[Mapping[str, tuple[tuple[str, ...], _Parser]]] = {
    Kind.PEER_AUTHENTICATION: (_ISTIO, parse_peer_authentication),
    Kind.AUTHORIZATION_POLICY: (_ISTIO, parse_authorization_policy),
    Kind.LEGACY_EXCEPTION: (_OWN, parse_legacy_exception),
    Kind.EGRESS_POLICY: (_OWN, parse_egress_policy),
}
# How `kubectl get` prints several objects, and how the API server does.
_LISTS: Final[Mapping[str, tuple[str, ...]]] = {
    "List": ("v1",),
    f"{Kind.PEER_AUTHENTICATION}List": _ISTIO,
    f"{Kind.AUTHORIZATION_POLICY}List": _ISTIO,
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


def parse_policies(files: Iterable[tuple[str, str]], mesh: MeshNames) -> tuple[Document, ...]:
    """Names and texts of files to documents; raises PolicyError with the first problem of each file.

    A name may be there once in the whole set.
    """
    documents: list[Document] = []
    problems: list[str] = []
    for name, text in files:
        try:
            documents += parse_file(name, text, mesh)
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise PolicyError(*problems)
    return require_unique(documents)


def require_unique(documents: Iterable[Document]) -> tuple[Document, ...]:
    """The documents, if each has a name of its own and they are not too many; raises PolicyError."""
    seen: dict[PolicyName, Head] = {}
    problems = []
    found = tuple(documents)
    for document in found:
        head = document.head
        first = seen.setdefault(head.name, head)
        if first is not head:
            where = f"{head.place}:{head.place.column}: metadata.name"
            problems.append(f"{where}: {head.name} is there twice, first in {first.place}")
    if problems:
        raise PolicyError(*problems)
    if len(seen) > MAX_DOCUMENTS:
        raise PolicyError(f"there are {len(seen)} policy documents, at most {MAX_DOCUMENTS} are allowed")
    return found


def parse_file(name: str, text: str, mesh: MeshNames) -> tuple[Document, ...]:
    """The documents of one file; raises PolicyError, and nothing else, for the first thing that is wrong."""
    return tuple(document for part in parts_of(name, text) for document in parse_part(name, part, mesh))


def parts_of(name: str, text: str) -> tuple[Part, ...]:
    """What can be parsed one after the other, each within bounds; raises PolicyError."""
    marks = text.count("\n---")
    if marks > MAX_DOCUMENTS:
        raise PolicyError(f"{name}: has {marks} marks of documents, at most {MAX_DOCUMENTS} are allowed")
    parts = split_documents(text) if len(text) <= MAX_FILE_CHARACTERS else (Part(text, 1),)
    for part in parts:
        if len(part.text) > MAX_CHARACTERS:
            where = f"{name}:" if len(parts) == 1 else f"{name}:{part.line}: the document"
            found = len(part.text)
            raise PolicyError(f"{where} has {found} characters, at most {MAX_CHARACTERS} are allowed")
    return parts


def parse_part(name: str, part: Part, mesh: MeshNames) -> tuple[Document, ...]:
    """The documents of a part of a file; raises PolicyError for the first thing that is wrong."""
    nodes = strict_yaml.read_documents(
        part.text, max_depth=MAX_DEPTH, first_line=part.line, max_keys=MAX_KEYS
    )
    try:
        return tuple(
            _document(item, mesh)
            for node in nodes
            for item in _items(Field(node, "", name, node.line, node.column))
        )
    except StrictYamlError as error:
        where = name if error.line is None else f"{name}:{error.line}:{error.column}"
        raise PolicyError(f"{where}: {error.problem}") from None


def _items(root: Field) -> Iterator[Field]:
    """The document itself, or those on a list of objects of Kubernetes, each with its place on it."""
    found = root.node.entries.get("kind") if isinstance(root.node, MappingNode) else None
    kind = found[1].text if found is not None and isinstance(found[1], ScalarNode) else ""
    if kind not in _LISTS:
        yield root
        return
    fields = root.mapping()
    fields.get("kind")
    version, items = fields.require("apiVersion"), fields.require("items")
    fields.get("metadata")  # the version of the list: it says nothing about what is on it
    fields.end()
    if version.text() not in _LISTS[kind]:
        raise version.error(f"{quoted(version.text())} has no {kind}, use {_LISTS[kind][0]}")
    if not isinstance(items.node, ListNode):
        raise items.error(f"expected a list, not {kind_of(items.node)}")
    for number, node in enumerate(items.node.items):
        yield Field(node, f"items[{number}]", root.file, node.line, node.column)


def _document(root: Field, mesh: MeshNames) -> Document:
    if not isinstance(root.node, MappingNode):
        raise root.error(f"expected a document of 'key: value' lines, not {kind_of(root.node)}")
    fields = root.mapping()
    api_version, kind = fields.get("apiVersion"), fields.get("kind")
    if api_version is None or kind is None:
        raise root.error(
            f"a document needs apiVersion and kind, such as {_ISTIO[0]} and {next(iter(_KINDS))}"
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
        missing = Field(root.node, "metadata", root.file, root.line, root.column, root)
        raise missing.error("is missing, it gives the document its name and namespace")
    name, dry_run = _metadata(metadata.mapping(), Kind(kind.text()))
    empty = Field(MappingNode({}, root.line, root.column), "spec", root.file, root.line, root.column, root)
    body = (empty if spec is None or spec.is_null else spec).mapping(_unsupported(name.kind))
    head = Head(name, _selector(body), Place(root.file, root.line, root.column))
    document = parser(head, body, dry_run, mesh)
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
    name = fields.require("name").parse(lambda text: validate_dotted_name("name", text))
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
