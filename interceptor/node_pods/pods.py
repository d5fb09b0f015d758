"""The pods of a node, and what shall become of each."""

from collections.abc import Mapping
from dataclasses import dataclass

from interceptor.cluster.cluster import Cluster
from interceptor.cluster.condition import Told
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.membership import Membership, Standing, Why, membership, why_namespace_is_outside
from interceptor.cluster.pod import Pod
from interceptor.cluster.workloads import workload_of
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.workload import Workload


@dataclass(frozen=True, slots=True)
class NodePod:
    """One pod; `workload` is what it shall be enrolled as, None unless it shall be, and has an address of its own.

    `is_meshed` says that its namespace is in the mesh, or may be; `told` what its status says of it.
    """

    uid: str
    key: ObjectKey
    membership: Membership
    workload: Workload | None
    addresses: tuple[str, ...] = ()
    probe_ports: tuple[int, ...] = ()
    is_meshed: bool = True
    is_ending: bool = False
    told: Told | None = None

    @property
    def standing(self) -> Standing:
        """How it stands to the mesh."""
        return self.membership.standing

    @property
    def is_meant(self) -> bool:
        """Whether it shall be in the mesh."""
        return self.standing in (Standing.ENROLLED, Standing.DRAINING)

    @property
    def explanation(self) -> str:
        """Why it stands so, for a person."""
        if self.is_meant and self.workload is None:
            return f"another pod has its address {', '.join(self.addresses)} too, by the API"
        return self.membership.why.explanation


def pods_of_node(cluster: Cluster, node: str, trust_domain: TrustDomain) -> Mapping[str, NodePod]:
    """The pods that are scheduled on a node, by UID: never given twice, so no pod can pass for one that was there."""
    return {pod.head.uid: _node_pod(cluster, pod, trust_domain) for pod in cluster.pods_on(node)}


def _node_pod(cluster: Cluster, pod: Pod, trust_domain: TrustDomain) -> NodePod:
    workload = workload_of(cluster, pod, trust_domain)
    if workload is not None and not workload.addresses:
        workload = None
    return NodePod(
        pod.head.uid,
        pod.head.key,
        membership(cluster, pod, trust_domain),
        workload,
        tuple(map(str, pod.addresses)),
        pod.probe_ports,
        _is_meshed(cluster, pod),
        pod.is_deleting or pod.is_finished,
        pod.told,
    )


def _is_meshed(cluster: Cluster, pod: Pod) -> bool:
    namespace = cluster.namespace_of(pod)
    if namespace is None:
        return not pod.is_host_network  # that one is outside of it in any case
    return why_namespace_is_outside(namespace) in (None, Why.LABEL_NOT_UNDERSTOOD)
