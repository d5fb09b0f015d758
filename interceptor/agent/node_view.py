"""How each pod of a node of a cluster is, for a person on that node; the keys of the answer are stable."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from interceptor.agent.clock import wall_clock
from interceptor.cluster.membership import Standing
from interceptor.cluster_status.pod_condition import reason_of
from interceptor.errors import UsageError

if TYPE_CHECKING:
    from interceptor.agent.members import Enrolled
    from interceptor.agent.node import Node
    from interceptor.agent.pod_status import PodStatus
    from interceptor.node_pods.pods import NodePod

DEGRADED = "degraded"


def node_view(node: Node) -> dict[str, Any]:
    """Every pod, and what the node waits for; UsageError on a host that is no node of a cluster."""
    cluster = node.cluster
    if cluster is None or cluster.keeper is None or cluster.status is None:
        raise UsageError("this host is no node of a cluster: see 'interceptor workloads'")
    enrolled = {each.state.pod_uid: each for each in node.enroller.enrolled}
    pods = sorted(cluster.keeper.pods.values(), key=lambda pod: pod.key)
    shown = {each["uid"]: each for each in cluster.keeper.shown()}
    return {
        "node": node.config.node,
        "ready": not node.missing(),
        "waiting_for": node.missing(),
        "pods": [_pod(node, cluster.status, pod, enrolled.get(pod.uid), shown[pod.uid]) for pod in pods],
    }


def _pod(
    node: Node, status: PodStatus, pod: NodePod, enrolled: Enrolled | None, shown: dict[str, object]
) -> dict[str, Any]:
    condition = status.conditions.get(pod.uid)
    is_unwell = enrolled is not None and condition is not None and not condition.holds
    state = DEGRADED if is_unwell and pod.standing is Standing.ENROLLED else shown["state"]
    certificate = node.credentials.status(enrolled.workload.key) if enrolled is not None else None
    svid = certificate.svid if certificate is not None else None
    identity = pod.membership.identity
    return {
        "namespace": pod.key.namespace,
        "name": pod.key.name,
        "uid": pod.uid,
        "identity": str(identity) if identity is not None else None,
        "state": state,
        "reason": condition.reason if condition is not None else reason_of(pod.membership.why),
        "message": condition.message if condition is not None else shown["reason"],
        "since": _since(status, pod),
        "certificate_not_after": svid.not_after.isoformat() if svid is not None else None,
        "listeners": enrolled.proxy.ports if enrolled is not None else [],
        "is_told": condition is not None and pod.told is not None and pod.told.condition == condition,
    }


def _since(status: PodStatus, pod: NodePod) -> str | None:
    """Since when it is so: as the API has it, if it has what is so; else as far as this agent knows."""
    condition = status.conditions.get(pod.uid)
    if condition is None:
        return None
    if pod.told is not None and pod.told.since and pod.told.condition.holds is condition.holds:
        return pod.told.since
    seconds = status.seconds_since(pod.uid)
    return (
        None if seconds is None else (wall_clock() - timedelta(seconds=seconds)).isoformat(timespec="seconds")
    )
