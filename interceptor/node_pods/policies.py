"""Istio's policy objects of the cluster as the documents that they are, also when somebody writes one that is none.

Anybody who may write such an object in one namespace must neither switch a policy off by breaking it, nor cut off the
rest of the mesh. So one that cannot be used keeps its last good state; and one that never had any is stood in for by
the strictest document of its kind, for its namespace alone.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from interceptor.cluster.cluster import Cluster
from interceptor.cluster.head import Head, ObjectKey
from interceptor.cluster.policy_object import API_VERSION, AUTHORIZATION_POLICY, PEER_AUTHENTICATION
from interceptor.errors import PolicyError
from interceptor.policy.documents import Document

Parse = Callable[[str, str], tuple[Document, ...]]  # place and text; PolicyError

_STRICTEST: Final = {
    PEER_AUTHENTICATION: {"mtls": {"mode": "STRICT"}},
    AUTHORIZATION_POLICY: {"action": "DENY", "rules": [{}]},
}


@dataclass(frozen=True, slots=True)
class ObjectDocuments:
    """All objects: their documents, their texts by the place where each is, and what is wrong, a line each."""

    documents: tuple[Document, ...]
    texts: dict[str, str]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One object as it is now; `text` is None where not even that can be read, and `problem` says why."""

    sort: str
    head: Head
    text: str | None
    problem: str

    @property
    def name(self) -> tuple[str, ObjectKey]:
        return self.sort, self.head.key

    @property
    def place(self) -> str:
        return f"{self.sort} {self.head.key}"


@dataclass(frozen=True, slots=True)
class _Known:
    """What an object last meant, and of which of its versions that was read."""

    uid: str
    version: int
    text: str
    documents: tuple[Document, ...]
    problem: str


class PolicyObjects:
    """Remembers the last good state of each object; one owner, one thread at a time."""

    def __init__(self, parse: Parse) -> None:
        """`parse` is for the text of one object."""
        self._parse = parse
        self._known: dict[tuple[str, ObjectKey], _Known] = {}

    def read(self, cluster: Cluster) -> ObjectDocuments:
        """What the objects of this snapshot mean; those that did not change are not parsed again."""
        self._known = {each.name: self._read(each) for each in _objects(cluster)}
        known = [self._known[name] for name in sorted(self._known)]
        return ObjectDocuments(
            tuple(document for each in known for document in each.documents),
            {f"{sort} {key}": self._known[sort, key].text for sort, key in sorted(self._known)},
            tuple(each.problem for each in known if each.problem),
        )

    def _read(self, wanted: _Wanted) -> _Known:
        before = self._known.get(wanted.name)
        if before is not None and before.uid != wanted.head.uid:
            before = None  # another object took its name
        if before is not None and before.version == wanted.head.version:
            return before
        if before is not None and not before.problem and before.text == wanted.text:
            return replace(before, version=wanted.head.version)  # something was written into its status
        problem = wanted.problem
        if wanted.text is not None:
            try:
                documents = self._parse(wanted.place, wanted.text)
                return _Known(wanted.head.uid, wanted.head.version, wanted.text, documents, "")
            except PolicyError as error:
                problem = str(error)
        return self._instead(wanted, before, problem)

    def _instead(self, wanted: _Wanted, before: _Known | None, problem: str) -> _Known:
        if before is not None:
            text, documents, consequence = before.text, before.documents, "its last good state stays in force"
        else:
            text, documents = self._strictest(wanted)
            consequence = (
                f"everything in namespace {wanted.head.key.namespace} that it might forbid is refused"
            )
        return _Known(
            wanted.head.uid,
            wanted.head.version,
            text,
            documents,
            f"{problem}; until that is repaired {consequence}",
        )

    def _strictest(self, wanted: _Wanted) -> tuple[str, tuple[Document, ...]]:
        """What stands in for an object; under another name, if its own is the fault."""
        key = wanted.head.key
        text = _strictest(wanted.sort, key)
        try:
            return text, self._parse(wanted.place, text)
        except PolicyError:
            digest = hashlib.sha256(key.name.encode()).hexdigest()[:16]
            text = _strictest(wanted.sort, ObjectKey(key.namespace, f"unusable-{digest}"))
            return text, self._parse(wanted.place, text)


def _objects(cluster: Cluster) -> Iterator[_Wanted]:
    for sort, table in (
        (PEER_AUTHENTICATION, cluster.peer_authentications),
        (AUTHORIZATION_POLICY, cluster.authorization_policies),
    ):
        for each in table.objects.values():
            if each.head.key not in table.unreadable:
                yield _Wanted(sort, each.head, each.text, "")
        for broken in table.unreadable.values():
            yield _Wanted(sort, broken.head, None, broken.problem)


def _strictest(sort: str, key: ObjectKey) -> str:
    metadata = {"name": key.name, "namespace": key.namespace}
    document = {"apiVersion": API_VERSION, "kind": sort, "metadata": metadata, "spec": _STRICTEST[sort]}
    return json.dumps(document)
