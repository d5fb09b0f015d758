"""What everything else stands on: the namespace, and who the agents and the authority are."""

from typing import Any

from interceptor.manifests.names import AGENT, AUTHORITY, metadata
from interceptor.manifests.values import Values
from interceptor.manifests.yaml_text import Commented

Objects = list[dict[str, Any]]


def foundation(values: Values, version: str) -> Objects:
    """Namespace and service accounts."""
    space = metadata(values.namespace, "namespace", version)
    space["labels"]["pod-security.kubernetes.io/enforce"] = Commented(
        "Pod Security Admission: the agents load BPF programs and enter the pods' network namespaces.",
        "privileged",
    )
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": space},
        *(
            _account(name, component, values, version)
            for name, component in ((AGENT, "agent"), (AUTHORITY, "authority"))
        ),
    ]


def _account(name: str, component: str, values: Values, version: str) -> dict[str, Any]:
    head = metadata(name, component, version, values.namespace)
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": head}
