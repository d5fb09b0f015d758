"""Which node a token proves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interceptor.authority.refusal import Code, Refused
from interceptor.cluster.cluster import Cluster
from interceptor.cluster.head import ObjectKey
from interceptor.pod_admission.node_proof import proven_node
from interceptor.pod_admission.token_review import ProvenPod
from tests.cluster.api_objects import cluster_of, pod

AGENT = ObjectKey("mesh", "agent")
PROVEN = ProvenPod(ObjectKey("mesh", "agent-x"), "uid-agent-x", "agent", "node-1")
POD = pod("mesh/agent-x", "192.0.2.1", account="agent", host_network=True)


def refusal(proven: ProvenPod, *pods: dict[str, object]) -> str:
    with pytest.raises(Refused) as caught:
        proven_node(proven, cluster_of(pods=pods), AGENT)
    assert caught.value.code is Code.NOT_A_NODE_AGENT
    return caught.value.message


@pytest.mark.parametrize("claimed", ["node-1", None])
def test_agents_pod_proves_the_node_on_which_the_api_shows_it(claimed):
    assert proven_node(replace(PROVEN, node=claimed), cluster_of(pods=[POD]), AGENT) == "node-1"


@pytest.mark.parametrize(
    "proven",
    [
        replace(PROVEN, service_account="web"),
        replace(PROVEN, pod=ObjectKey("shop", "agent-x")),
    ],
)
def test_token_of_another_service_account_proves_nothing(proven):
    assert "agents have mesh/agent" in refusal(proven, POD)


def test_token_of_a_pod_that_is_gone_or_was_replaced_proves_nothing():
    assert "shows no pod mesh/agent-x with UID 'uid-agent-x'" in refusal(PROVEN)
    assert "shows no pod" in refusal(PROVEN, pod("mesh/agent-x", account="agent", uid="another"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (pod("mesh/agent-x", account="agent", phase="Failed"), "has ended, or is no longer one of"),
        (pod("mesh/agent-x", account="other"), "has ended, or is no longer one of service account agent"),
        (pod("mesh/agent-x", account="agent", node=None), "is on no node, its token was made for node-1"),
        (pod("mesh/agent-x", account="agent", node="node-2"), "is on node-2, its token was made for node-1"),
    ],
)
def test_pod_that_contradicts_its_token_proves_nothing(changed, message):
    assert message in refusal(PROVEN, changed)


def test_pod_without_a_node_proves_nothing_when_its_token_names_none_either():
    unscheduled = pod("mesh/agent-x", account="agent", node=None)
    assert "is on no node, its token was made for any" in refusal(replace(PROVEN, node=None), unscheduled)


def test_node_whose_name_no_certificate_can_have_is_refused():
    long = "n" * 64
    changed = pod("mesh/agent-x", account="agent", node=long)
    assert "is not valid" in refusal(replace(PROVEN, node=long), changed)


def test_nothing_is_proven_before_the_pods_were_listed():
    with pytest.raises(Refused) as caught:
        proven_node(PROVEN, Cluster(), AGENT)
    assert caught.value.code is Code.AUTHORITY_UNAVAILABLE
