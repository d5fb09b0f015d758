"""Which identities a node may have: those of the pods in the mesh that are scheduled on it and have not ended."""

from collections import defaultdict

from interceptor.authority.refusal import Code, Refused
from interceptor.cluster.cluster import Cluster
from interceptor.cluster.membership import Membership, membership
from interceptor.cluster.pod import Pod
from interceptor.identity.spiffe_id import SpiffeId


class PodIndex:
    """The pods of one snapshot by node, namespace and service account; made once, asked often."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pods: defaultdict[tuple[str, str, str], list[Pod]] = defaultdict(list)
        for pod in cluster.pods.objects.values():
            if pod.node is not None and pod.service_account is not None:
                self._pods[pod.node, pod.head.key.namespace, pod.service_account].append(pod)

    @property
    def is_complete(self) -> bool:
        """Whether everything that decides was listed."""
        return self._cluster.pods.is_listed and self._cluster.namespaces.is_listed

    def require(self, node: str, spiffe_id: SpiffeId) -> None:
        """Raise Refused unless a pod on the node has this identity; of our own trust domain, as the caller knows.

        A pod that is being deleted counts until it is gone: its connections may finish.
        """
        if not self.is_complete:
            raise Refused(Code.AUTHORITY_UNAVAILABLE, "the authority does not know the cluster's pods yet")
        key = node, spiffe_id.namespace, spiffe_id.service_account
        pods = sorted(self._pods.get(key, ()), key=lambda pod: pod.head.key)
        standings = [membership(self._cluster, pod, spiffe_id.trust_domain) for pod in pods]
        if not any(each.identity == spiffe_id for each in standings):
            raise Refused(Code.POD_NOT_ON_NODE, _why_not(node, spiffe_id, pods, standings))


def _why_not(node: str, spiffe_id: SpiffeId, pods: list[Pod], standings: list[Membership]) -> str:
    if not pods:
        account = f"{spiffe_id.namespace}/{spiffe_id.service_account}"
        return f"{node} may not have {spiffe_id}: the API shows no pod of service account {account} there"
    return (
        f"{node} may not have {spiffe_id}: pod {pods[0].head.key} there is not in the mesh, "
        f"{standings[0].why.explanation}"
    )
