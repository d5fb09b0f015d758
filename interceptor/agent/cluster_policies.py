"""The policies of a node of a cluster: the objects of the API, and beside them the files, if there are any."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from interceptor.agent.policy_files import collection_paused
from interceptor.errors import PolicyError
from interceptor.node_pods.policies import PolicyObjects
from interceptor.policy.parse import require_unique

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from interceptor.agent.policy_files import PolicyFiles, PolicyTexts
    from interceptor.cluster.policy_object import PolicyObject
    from interceptor.cluster.table import Table
    from interceptor.kubernetes.cluster_watch import ClusterWatch
    from interceptor.node_pods.policies import Parse


def _said(table: Table[PolicyObject]) -> Iterator[Hashable]:
    """What each object says, of which only the words count, and each that cannot be read."""
    for each in table.objects.values():
        yield each.place, each.head.uid, each.text
    for broken in table.unreadable.values():
        yield broken.problem, broken.head


class ClusterPolicies:
    """A PolicySource; `problems` are those of single objects, which do not keep the others from being in force."""

    def __init__(self, files: PolicyFiles, watch: ClusterWatch, parse: Parse) -> None:
        self.directory = files.directory
        self.problems: tuple[str, ...] = ()
        self._files = files
        self._watch = watch
        self._objects = PolicyObjects(parse)
        self._seen: tuple[object, object] = (None, None)
        self._meaning: frozenset[Hashable] = frozenset()

    @property
    def not_read(self) -> tuple[str, ...]:
        """The names beside the files that are none of a policy file."""
        return self._files.not_read

    @property
    def is_known(self) -> bool:
        """Whether the API has said which objects there are; none is an answer too."""
        cluster = self._watch.cluster
        return cluster.peer_authentications.is_listed and cluster.authorization_policies.is_listed

    def signature(self) -> object:
        """What is there, to see whether it changed; what is told of policies in their status is no change of them."""
        cluster = self._watch.cluster
        tables = (cluster.peer_authentications, cluster.authorization_policies)
        if any(now is not before for now, before in zip(tables, self._seen, strict=True)):
            self._seen = tables
            self._meaning = frozenset(said for table in tables for said in _said(table))
        return self._files.signature(), self.is_known, self._meaning

    def load(self, changed: Mapping[str, str] | None = None) -> PolicyTexts:
        """Everything as one set, with some files' texts replaced by `changed`; PolicyError when there is none."""
        if not self.is_known:
            raise PolicyError(
                "the policies of the cluster are not known yet, the Kubernetes API did not list them"
            )
        loaded = self._files.load(changed)
        with collection_paused():
            found = self._objects.read(self._watch.cluster)
            documents = require_unique((*loaded.documents, *found.documents))
        self.problems = found.problems
        return replace(loaded, documents=documents, objects=found.texts)
