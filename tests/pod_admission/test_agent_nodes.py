"""The nodes of a cluster are those that have an agent."""

from interceptor.cluster.head import ObjectKey
from interceptor.pod_admission.agent_nodes import agent_nodes
from tests.cluster.api_objects import cluster_of, pod


def test_nodes_are_those_with_a_pod_of_the_agents():
    pods = (
        pod("mesh/agent-1", account="agent", node="node-1"),
        pod("mesh/agent-2", account="agent", node="node-2", deleting=True),
        pod("mesh/agent-3", account="agent", node="node-3", phase="Failed"),
        pod("mesh/agent-4", account="agent", node=None),
        pod("mesh/other", account="other", node="node-5"),
        pod("shop/agent", account="agent", node="node-6"),
        pod("mesh/nobody", account=None, node="node-7"),
        pod("mesh/agent-8", account="agent", node="a..b"),
    )
    cluster = cluster_of(pods=pods)
    assert agent_nodes(cluster, ObjectKey("mesh", "agent")) == {"node-1", "node-2"}
