"""The authority: replicas that share the state in a Secret, and what stands around them.

The Secret is not printed: the replica that leads makes it, with keys that nobody has seen.
"""

from typing import Any, Final

from interceptor.manifests.foundation import Objects
from interceptor.manifests.names import (
    AGENT,
    AUTHORITY,
    AUTHORITY_PORT,
    METRICS_PORT,
    labels,
    metadata,
    selector,
)
from interceptor.manifests.values import Values
from interceptor.manifests.yaml_text import Commented

_COMPONENT: Final = "authority"
_USER: Final = 65532  # nobody's on a node
_WORK, _AUDIT, _TMP = "/run/interceptor-authority", "/var/log/interceptor", "/tmp"  # noqa: S108 -- its own mount


def authority(values: Values, version: str) -> Objects:
    """Service, NetworkPolicy, PodDisruptionBudget and Deployment."""
    head = metadata(AUTHORITY, _COMPONENT, version, values.namespace)
    chosen = {"matchLabels": selector(_COMPONENT)}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": head,
            "spec": {
                "selector": selector(_COMPONENT),
                "ports": [
                    {"name": "https", "port": AUTHORITY_PORT, "targetPort": "https", "protocol": "TCP"}
                ],
            },
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": head,
            "spec": {
                "podSelector": chosen,
                "policyTypes": ["Ingress"],
                "ingress": Commented(
                    "Agents come from the nodes' own addresses, which no selector knows: anybody may connect, and must "
                    "prove who he is.",
                    [
                        {"ports": [{"port": AUTHORITY_PORT, "protocol": "TCP"}]},
                        Commented(
                            "Prometheus may be anywhere: put a selector here for where it is.",
                            {"ports": [{"port": METRICS_PORT, "protocol": "TCP"}]},
                        ),
                    ],
                ),
            },
        },
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": head,
            "spec": {"maxUnavailable": 1, "selector": chosen},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": head,
            "spec": {
                "replicas": values.authority_replicas,
                "selector": chosen,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "template": {
                    "metadata": {
                        "labels": labels(_COMPONENT, version),
                        "annotations": {
                            "prometheus.io/scrape": "true",
                            "prometheus.io/path": "/metrics",
                            "prometheus.io/port": str(METRICS_PORT),
                        },
                    },
                    "spec": _pod(values),
                },
            },
        },
    ]


def _pod(values: Values) -> dict[str, Any]:
    return {
        "serviceAccountName": AUTHORITY,
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "topologySpreadConstraints": Commented(
            "On two nodes where there are two.",
            [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": selector(_COMPONENT)},
                }
            ],
        ),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(values)],
        "volumes": [
            {
                "name": "work",
                "emptyDir": Commented(
                    "In memory: the copy of the state by which this replica issues, with the intermediate's key.",
                    {"medium": "Memory", "sizeLimit": "64Mi"},
                ),
            },
            {
                "name": "audit",
                "emptyDir": Commented(
                    "A line for each certificate and each refusal; it goes with the pod, so have it collected.",
                    {"sizeLimit": "1Gi"},
                ),
            },
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        ],
    }


def _container(values: Values) -> dict[str, Any]:
    everywhere = "[::]" if _is_ipv6_only(values) else "0.0.0.0"  # noqa: S104 -- of the pod
    health = {"httpGet": {"path": "/healthz", "port": "https", "scheme": "HTTPS"}}
    return {
        "name": "authority",
        "image": values.image,
        "imagePullPolicy": values.image_pull_policy.value,
        "args": [
            *("ca", "serve", "--listen", f"{everywhere}:{AUTHORITY_PORT}"),
            *("--metrics", f"{everywhere}:{METRICS_PORT}", "--metrics-public"),
            *("--kubernetes", "pod", "--trust-domain", values.trust_domain.name),
        ],
        "env": Commented(
            "So that commands work too: kubectl exec deploy/interceptor-authority -- interceptor ca status",
            [
                {"name": "INTERCEPTOR_CA_SECRET", "value": f"{values.namespace}/{AUTHORITY}"},
                {"name": "INTERCEPTOR_CA_AGENTS", "value": f"{values.namespace}/{AGENT}"},
                {"name": "INTERCEPTOR_CA_DIR", "value": f"{_WORK}/authority"},
                {"name": "INTERCEPTOR_CA_AUDIT", "value": f"{_AUDIT}/audit.jsonl"},
            ],
        ),
        "ports": [
            {"name": "https", "containerPort": AUTHORITY_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "startupProbe": Commented(
            "It serves once the API has given or taken its state.",
            {**health, "periodSeconds": 2, "failureThreshold": 300},
        ),
        "readinessProbe": {**health, "periodSeconds": 5, "timeoutSeconds": 3},
        "livenessProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": Commented("It knows all pods: 80 MiB for 20,000 of them.", {"memory": "1Gi"}),
        },
        "volumeMounts": [
            {"name": "work", "mountPath": _WORK},
            {"name": "audit", "mountPath": _AUDIT},
            {"name": "tmp", "mountPath": _TMP},
        ],
    }


def _is_ipv6_only(values: Values) -> bool:
    return all(cidr.version == 6 for cidr in values.mesh_cidrs)
