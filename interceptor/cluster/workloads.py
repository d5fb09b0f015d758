"""The pods that are in the mesh as workloads, by UID."""

from collections.abc import Mapping

from interceptor.cluster.cluster import Cluster
from interceptor.cluster.membership import Standing, membership
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
        WorkloadKey(pod.head.key.namespace, pod.head.key.name), found.identity, addresses, pod.node
    )


def workloads_by_uid(cluster: Cluster, trust_domain: TrustDomain) -> Mapping[str, Workload]:
    """All workloads of the cluster.

    The UID is the pod's, never given twice, so a pod that takes over another's name or address is another workload.
    """
    found = ((pod.head.uid, workload_of(cluster, pod, trust_domain)) for pod in cluster.pods.objects.values())
    return {uid: workload for uid, workload in found if workload is not None}
