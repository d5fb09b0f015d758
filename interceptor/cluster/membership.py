"""Whether a pod is in the mesh, as whom, and if not, why: by labels, as Istio's ambient mode does it.

A namespace is in the mesh by `interceptor.io/mesh: enabled`, or by Istio's `istio.io/dataplane-mode: ambient` when it
does not have our label; a pod in it is excepted by the value `none` of either (Istio, "Add workloads to the mesh").
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from interceptor.cluster.cluster import Cluster
from interceptor.cluster.namespace import Namespace
from interceptor.cluster.pod import Pod
from interceptor.errors import InvalidInput
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.workload import WorkloadKey

MESH_LABEL: Final = "interceptor.io/mesh"
ISTIO_LABEL: Final = "istio.io/dataplane-mode"
ENABLED: Final = "enabled"
AMBIENT: Final = "ambient"
NONE: Final = "none"


class Standing(StrEnum):
    """How a pod stands to the mesh."""

    ENROLLED = "enrolled"
    DRAINING = "draining"  # it was asked to end: its connections may finish, and nothing else changes
    WAITING = "waiting"  # it shall be in the mesh, or may, but something is not known yet: it gets nothing in plaintext
    OUTSIDE = "outside"


class Why(StrEnum):
    """The closed set of reasons."""

    LABELLED = "labelled"
    ASKED_TO_END = "asked_to_end"
    NAMESPACE_UNKNOWN = "namespace_unknown"
    NO_ADDRESS = "no_address"
    NO_IDENTITY = "no_identity"
    NAME_UNSUPPORTED = "name_unsupported"
    FINISHED = "finished"
    HOST_NETWORK = "host_network"
    NAMESPACE_NOT_LABELLED = "namespace_not_labelled"
    LABEL_NOT_UNDERSTOOD = "label_not_understood"
    POD_EXCEPTED = "pod_excepted"

    @property
    def explanation(self) -> str:
        """One sentence for a person."""
        return _EXPLANATIONS[self]


_EXPLANATIONS: Final = {
    Why.LABELLED: "the namespace's label puts it into the mesh",
    Why.ASKED_TO_END: "it is being deleted, its connections may finish",
    Why.NAMESPACE_UNKNOWN: "its namespace is not known yet, so neither is whether it shall be in the mesh",
    Why.NO_ADDRESS: "it has no address yet",
    Why.NO_IDENTITY: "it has no service account (a static pod has none), so it can have no identity",
    Why.NAME_UNSUPPORTED: "its name or its service account's is none that Kubernetes would take, so it can have no identity",
    Why.FINISHED: "it has ended",
    Why.HOST_NETWORK: "it uses its node's network, whose processes cannot be told apart by their namespace",
    Why.NAMESPACE_NOT_LABELLED: f"its namespace has not the label {MESH_LABEL}={ENABLED}",
    Why.LABEL_NOT_UNDERSTOOD: f"its namespace's label {MESH_LABEL} is neither {ENABLED} nor {NONE}",
    Why.POD_EXCEPTED: f"its own label {MESH_LABEL} or {ISTIO_LABEL} is {NONE}",
}


@dataclass(frozen=True, slots=True)
class Membership:
    """The decision about one pod; who is enrolled, draining, or waits for an address only, has an identity."""

    standing: Standing
    why: Why
    identity: SpiffeId | None = None

    @property
    def is_possible(self) -> bool:
        """Whether the pod is in the mesh, or may turn out to be."""
        return self.standing is not Standing.OUTSIDE

    @property
    def is_free(self) -> bool:
        """Whether the pod is certainly outside of the mesh, and runs in a network namespace of its own."""
        return self.standing is Standing.OUTSIDE and self.why not in (Why.FINISHED, Why.HOST_NETWORK)


def membership(cluster: Cluster, pod: Pod, trust_domain: TrustDomain) -> Membership:
    """Decide about a pod."""
    if outside := _outside_by_itself(pod):
        return Membership(Standing.OUTSIDE, outside)
    namespace = cluster.namespace_of(pod)
    if namespace is None:
        return Membership(Standing.WAITING, Why.NAMESPACE_UNKNOWN)
    if outside := _outside_by_label(namespace, pod):
        return Membership(Standing.OUTSIDE, outside)
    if pod.service_account is None:
        return Membership(Standing.OUTSIDE, Why.NO_IDENTITY)
    try:
        WorkloadKey(pod.head.key.namespace, pod.head.key.name)
        identity = SpiffeId(trust_domain, pod.head.key.namespace, pod.service_account)
    except InvalidInput:
        return Membership(Standing.WAITING, Why.NAME_UNSUPPORTED)
    if not pod.addresses or pod.node is None:
        return Membership(Standing.WAITING, Why.NO_ADDRESS, identity)
    if pod.is_deleting:
        return Membership(Standing.DRAINING, Why.ASKED_TO_END, identity)
    return Membership(Standing.ENROLLED, Why.LABELLED, identity)


def why_namespace_is_outside(namespace: Namespace) -> Why | None:
    """Why the pods of a namespace are not in the mesh, None when they are."""
    ours = namespace.labels.get(MESH_LABEL)
    if ours not in (None, ENABLED, NONE):
        return Why.LABEL_NOT_UNDERSTOOD
    if ours == ENABLED or (ours is None and namespace.labels.get(ISTIO_LABEL) == AMBIENT):
        return None
    return Why.NAMESPACE_NOT_LABELLED


def _outside_by_itself(pod: Pod) -> Why | None:
    if pod.is_finished:
        return Why.FINISHED
    return Why.HOST_NETWORK if pod.is_host_network else None


def _outside_by_label(namespace: Namespace, pod: Pod) -> Why | None:
    if why := why_namespace_is_outside(namespace):
        return why
    excepted = NONE in (pod.labels.get(MESH_LABEL), pod.labels.get(ISTIO_LABEL))
    return Why.POD_EXCEPTED if excepted else None
