"""Which node a token proves: the one on which the agent's own pod runs, and no other."""

from interceptor.authority.refusal import Code, Refused
from interceptor.cluster.cluster import Cluster
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.pod import Pod
from interceptor.errors import InvalidInput, quoted
from interceptor.identity.node_id import validate_node_name
from interceptor.pod_admission.token_review import ProvenPod


def proven_node(proven: ProvenPod, cluster: Cluster, agent: ObjectKey) -> str:
    """The name of the node; `agent` is the service account of the DaemonSet.

    The API's answer about the token is held against the pods that it shows: a token of a pod that was replaced by one
    of the same name (another UID), that has ended, or of which API and token name different nodes, proves nothing.
    Raises Refused.
    """
    account = ObjectKey(proven.pod.namespace, proven.service_account)
    if account != agent:
        raise Refused(
            Code.NOT_A_NODE_AGENT, f"the token is one of service account {account}, agents have {agent}"
        )
    if not cluster.pods.is_listed:
        raise Refused(Code.AUTHORITY_UNAVAILABLE, "the authority does not know the cluster's pods yet")
    pod = cluster.pods.get(proven.pod)
    if pod is None or pod.head.uid != proven.uid:
        raise Refused(
            Code.NOT_A_NODE_AGENT, f"the API shows no pod {proven.pod} with UID {quoted(proven.uid)}"
        )
    return _node_of(pod, proven)


def _node_of(pod: Pod, proven: ProvenPod) -> str:
    if pod.is_finished or pod.service_account != proven.service_account:
        raise Refused(
            Code.NOT_A_NODE_AGENT,
            f"pod {proven.pod} has ended, or is no longer one of service account {proven.service_account}",
        )
    if pod.node is None or (proven.node is not None and proven.node != pod.node):
        raise Refused(
            Code.NOT_A_NODE_AGENT,
            f"pod {proven.pod} is on {pod.node or 'no node'}, its token was made for {proven.node or 'any'}",
        )
    try:
        return validate_node_name(pod.node)
    except InvalidInput as error:
        raise Refused(Code.NOT_A_NODE_AGENT, str(error)) from None
