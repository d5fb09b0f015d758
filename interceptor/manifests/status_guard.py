"""What an agent may change of a pod's status: its own condition, of pods of its own node, and nothing else.

RBAC knows no smaller right than to patch the status of every pod, and a status has the addresses by which everybody
finds the pod. Whoever took over one node's agent could give himself another's. So the API server is told to refuse the
rest: a ValidatingAdmissionPolicy (kubernetes.io, GA in 1.30), which needs no server of ours. On which node the agent is
says its token (`authentication.kubernetes.io/node-name`, 1.30).
"""

from typing import Any, Final

from interceptor.cluster.condition import POD_CONDITION
from interceptor.manifests.foundation import Objects
from interceptor.manifests.names import AGENT, metadata
from interceptor.manifests.values import Values
from interceptor.manifests.yaml_text import Commented

_GROUP: Final = "admissionregistration.k8s.io/v1"
_NODE: Final = "authentication.kubernetes.io/node-name"
# PodStatus v1 core, without conditions.
_STATUS: Final = (
    "allocatedResources",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "extendedResourceClaimStatus",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "nominatedNodeName",
    "observedGeneration",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "reason",
    "resize",
    "resourceClaimStatuses",
    "resources",
    "startTime",
)
_METADATA: Final = ("annotations", "finalizers", "labels", "ownerReferences")


def status_guard(values: Values, version: str) -> Objects:
    """The policy and its binding; nothing when no condition is written."""
    if not values.pod_conditions:
        return []
    head = metadata(f"{AGENT}.{values.namespace}", "agent", version)
    account = f"system:serviceaccount:{values.namespace}:{AGENT}"
    return [
        {
            "apiVersion": _GROUP,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": head,
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "resourceRules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["UPDATE"],
                            "resources": ["pods/status"],
                        }
                    ]
                },
                "matchConditions": [
                    {"name": "by-agent", "expression": f"request.userInfo.username == '{account}'"}
                ],
                "validations": _validations(),
            },
        },
        {
            "apiVersion": _GROUP,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": head,
            "spec": {"policyName": head["name"], "validationActions": ["Deny"]},
        },
    ]


def _validations() -> list[Any]:
    others = f"filter(c, c.type != '{POD_CONDITION}')"
    return [
        Commented(
            "By the token of an agent, a pod of that agent's node.",
            {
                "expression": (
                    f"'{_NODE}' in request.userInfo.extra && has(object.spec.nodeName) && "
                    f"request.userInfo.extra['{_NODE}'] == [object.spec.nodeName]"
                ),
                "message": "an agent may only tell of pods of its own node",
            },
        ),
        {
            "expression": (
                f"object.status.?conditions.orValue([]).{others} == "
                f"oldObject.status.?conditions.orValue([]).{others}"
            ),
            "message": f"an agent may only change the condition {POD_CONDITION}",
        },
        *(
            {"expression": _same(part, names), "message": f"an agent may change nothing else of {part}"}
            for part, names in (("status", _STATUS), ("metadata", _METADATA))
        ),
    ]


def _same(part: str, names: tuple[str, ...]) -> str:
    return " && ".join(f"object.{part}.?{name} == oldObject.{part}.?{name}" for name in names)
