"""The text of manifests to NetworkPolicies and the labels of namespaces; whatever else is in there is counted.

It takes what `kubectl get -o yaml` or `-o json` prints, and what people keep in files. A NetworkPolicy must be exactly
one that the API server would take: a field that is mistyped there is dropped, and with it what it should restrict.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from interceptor import strict_yaml
from interceptor.errors import PolicyError
from interceptor.network_policy.model import NetworkPolicy
from interceptor.network_policy.parse_policy import parse_network_policy
from interceptor.policy.reader import Field, Fields
from interceptor.strict_yaml import ListNode, MappingNode, ScalarNode, StrictYamlError

MAX_CHARACTERS: Final = 64 * 1024 * 1024  # of all files
MAX_DEPTH: Final = 64  # eight are in use; definitions of other kinds are deep
MAX_POLICIES: Final = 50_000
NETWORK_POLICY: Final = ("networking.k8s.io/v1", "NetworkPolicy")
# They too decide what reaches a pod, and must not seem to have been looked at.
_RELATED: Final = (
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
    "CiliumClusterwideNetworkPolicy",
    "CiliumNetworkPolicy",
    "ClusterNetworkPolicy",
    "GlobalNetworkPolicy",
    "NetworkPolicy",
    "StagedNetworkPolicy",
)


@dataclass(frozen=True, slots=True)
class Manifests:
    """What was found: `related` are policies of other kinds, which nobody looked at, `others` all other documents."""

    policies: tuple[NetworkPolicy, ...]
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    related: Mapping[str, int] = field(default_factory=dict)
    others: int = 0


def parse_manifests(files: Iterable[tuple[str, str]], default_namespace: str = "default") -> Manifests:
    """Names and texts of files to what is in them; raises PolicyError with the first problem of each file.

    `default_namespace` is that of policies which name none. A policy that is there twice must be the same.
    """
    reading = _Reading(default_namespace)
    problems: list[str] = []
    for name, text in files:
        try:
            reading.read(name, text)
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise PolicyError(*problems)
    return reading.manifests()


class _Reading:
    """Collects from one file after the other."""

    def __init__(self, default_namespace: str) -> None:
        self._default_namespace = default_namespace
        self._policies: dict[tuple[str, str], NetworkPolicy] = {}
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._related: Counter[str] = Counter()
        self._others = 0

    def manifests(self) -> Manifests:
        return Manifests(
            tuple(self._policies.values()),
            self._namespaces,
            dict(sorted(self._related.items())),
            self._others,
        )

    def read(self, name: str, text: str) -> None:
        for document in _documents(name, text):
            self._add(document)

    def _add(self, document: Field) -> None:
        fields = document.mapping()
        version, kind = _word(fields.get("apiVersion")), _word(fields.get("kind"))
        if (version, kind) == NETWORK_POLICY:
            self._add_policy(document, fields)
        elif kind in _RELATED:
            self._related[f"{kind} of {version or 'no apiVersion'}"] += 1
        elif (version, kind) == ("v1", "Namespace"):
            labels = _labels(fields)
            self._namespaces[labels[0]] = labels[1]
        else:
            self._others += 1

    def _add_policy(self, document: Field, fields: Fields) -> None:
        policy = parse_network_policy(document, fields, self._default_namespace)
        first = self._policies.setdefault((policy.namespace, policy.name), policy)
        if first != policy:
            raise document.error(
                f"NetworkPolicy {policy} is there twice and not the same, first in {first.file}:{first.line}"
            )
        if len(self._policies) > MAX_POLICIES:
            raise document.error(f"there are more than {MAX_POLICIES} NetworkPolicies")


def _documents(name: str, text: str) -> Iterator[Field]:
    """The documents of a file; of those whose kind is a list, its items."""
    try:
        nodes = tuple(strict_yaml.read_documents(text, max_depth=MAX_DEPTH))
    except StrictYamlError as error:
        place = name if error.line is None else f"{name}:{error.line}:{error.column}"
        raise PolicyError(f"{place}: {error.problem}") from None
    for node in nodes:
        document = Field(node, "", name, node.line, node.column)
        items = node.entries.get("items") if isinstance(node, MappingNode) else None
        if items is not None and isinstance(items[1], ListNode) and _is_list(document):
            for number, item in enumerate(items[1].items):
                yield Field(item, f"items[{number}]", name, item.line, item.column)
        else:
            yield document


def _is_list(document: Field) -> bool:
    return (_word(document.mapping().get("kind")) or "").endswith("List")


def _word(found: Field | None) -> str | None:
    """A text that decides whether a document is ours to read; None for anything else."""
    return found.node.text if found is not None and isinstance(found.node, ScalarNode) else None


def _labels(fields: Fields) -> tuple[str, Mapping[str, str]]:
    metadata = fields.require("metadata").mapping()
    labels = metadata.get("labels")
    found = {} if labels is None or labels.is_null else dict(labels.mapping().all())
    return metadata.require("name").text(), {key: value.text() for key, value in found.items()}
