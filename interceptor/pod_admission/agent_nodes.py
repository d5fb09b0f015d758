"""Which nodes there are: those on which a pod of the agents' service account is."""

from interceptor.cluster.cluster import Cluster
from interceptor.cluster.head import ObjectKey
from interceptor.errors import InvalidInput
from interceptor.identity.node_id import validate_node_name


def agent_nodes(cluster: Cluster, agent: ObjectKey) -> frozenset[str]:
    """The names of the nodes; `agent` is the service account of the DaemonSet.

    A pod that is being deleted counts until it is gone. A node whose name we cannot have in an identity has none.
    """
    return frozenset(
        pod.node
        for pod in cluster.pods.objects.values()
        if pod.node is not None
        and not pod.is_finished
        and ObjectKey(pod.head.key.namespace, pod.service_account or "") == agent
        and _is_name(pod.node)
    )


def _is_name(node: str) -> bool:
    try:
        validate_node_name(node)
    except InvalidInput:
        return False
    return True
