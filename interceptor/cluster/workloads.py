"""The pods that are in the mesh as workloads, by UID."""

from collections.abc import Mapping

from interceptor.cluster.cluster import Cluster
from interceptor.cluster.membership import Standing, Why, membership
from interceptor.cluster.pod import Pod
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.workload import Workload, WorkloadKey


def workload_of(cluster: Cluster, pod: Pod, trust_domain: TrustDomain) -> Workload | None:
    """The pod as a workload; None when it is not in the mesh.

    It has only those of its addresses that no other pod claims: whose an address is must be certain.
    """
    found = membership(cluster, pod, trust_domain)
    if found.standing not in (Standing.ENROLLED, Standing.DRAINING):
        return None
    assert found.identity is not None, "who is enrolled has an identity"
    assert pod.node is not None, "who is enrolled is on a node"
    addresses = tuple(address for address in pod.own_addresses if cluster.pod_at(address) is pod)
    return Workload(
        WorkloadKey(pod.head.key.namespace, pod.head.key.name),
        found.identity,
        addresses,
        pod.node,
        pod.labels,
    )


def unaddressed_workload(cluster: Cluster, pod: Pod, trust_domain: TrustDomain) -> Workload | None:
    """What a pod is in the mesh, without addresses, while the API shows none; None when it is not, or shall end.

    The kubelet tells a pod's address only after it has started the containers, their postStart hooks included: a pod
    may be at work for long by then.
    """
    found = membership(cluster, pod, trust_domain)
    if found.why is not Why.NO_ADDRESS or pod.node is None or pod.is_deleting:
        return None
    assert found.identity is not None, "who waits for an address only has an identity"
    key = WorkloadKey(pod.head.key.namespace, pod.head.key.name)
    return Workload(key, found.identity, (), pod.node, pod.labels)


def workloads_by_uid(cluster: Cluster, trust_domain: TrustDomain) -> Mapping[str, Workload]:
    """All workloads of the cluster.

    The UID is the pod's, never given twice, so a pod that takes over another's name or address is another workload.
    """
    found = ((pod.head.uid, workload_of(cluster, pod, trust_domain)) for pod in cluster.pods.objects.values())
    return {uid: workload for uid, workload in found if workload is not None}
