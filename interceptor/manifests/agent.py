"""The agent on each node: its configuration, and the DaemonSet.

hostPID: a pod's network namespace is found by the processes in its cgroup, through /proc; the alternative, the socket
of the container runtime, gives whoever has it the whole node, and is another one for each runtime.

hostNetwork: the agent must come up before the CNI has given out an address, and its own connections, to the API and the
authority, must not be captured by the programs that its predecessor left attached.

One agent on a node at a time: it takes over what the one before has pinned, and two would undo each other's work. So the
update strategy has no surge: the new agent could become ready only when the old one is gone, which the DaemonSet
controller lets live until the new one is ready.
"""

import hashlib
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from interceptor.manifests.foundation import Objects
from interceptor.manifests.names import AGENT, ROOTS, labels, metadata, selector
from interceptor.manifests.values import Values
from interceptor.manifests.yaml_text import Commented, document

_COMPONENT: Final = "agent"
_CONFIG: Final = "/etc/interceptor"
_ROOT: Final = "/etc/interceptor-root"
_TOKEN: Final = "/var/run/secrets/interceptor"  # noqa: S105 -- where it is
_CAPABILITIES: Final = (
    ("Load and attach BPF programs, enter network namespaces.", "SYS_ADMIN"),
    ("Addresses, routes, marks and clients' addresses inside them.", "NET_ADMIN"),
    ("Bind sockets to a link.", "NET_RAW"),
    ("Open the network namespace of a process that belongs to another user.", "SYS_PTRACE"),
    ("Read what belongs to others in /proc.", "DAC_OVERRIDE"),
)
# Nodes have these; the agent's files on them are those of an agent without Kubernetes.
_BPF: Final = "/sys/fs/bpf"
_STATE: Final = "/var/lib/interceptor"
_RUN: Final = "/run/interceptor"


def agent(values: Values, version: str) -> Objects:
    """ConfigMap and DaemonSet."""
    head = metadata(AGENT, _COMPONENT, version, values.namespace)
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": head,
            "data": {"config.yaml": _configuration(values)},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": head,
            "spec": {
                "selector": {"matchLabels": selector(_COMPONENT)},
                "updateStrategy": Commented(
                    "No surge: an agent takes over from the one before, and two at once would undo each other's work. "
                    "Connections wait or are refused meanwhile, never sent in plaintext.",
                    {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
                ),
                "template": {
                    "metadata": {"labels": labels(_COMPONENT, version), "annotations": _annotations(values)},
                    "spec": _pod(values),
                },
            },
        },
    ]


def _configuration(values: Values) -> str:
    cluster: dict[str, str] = {
        "joinTokenFile": f"{_TOKEN}/token",
        "rootFile": f"{_ROOT}/root.sha256",
    }
    if not values.pod_conditions:
        cluster["podConditions"] = "omit"
    if values.pods_cgroup is not None:
        cluster["podsCgroup"] = _seen(values.pods_cgroup)
    return document(
        {
            "trustDomain": values.trust_domain.name,
            "mode": values.mode.value,
            "mesh": {"cidrs": [str(cidr) for cidr in values.mesh_cidrs]},
            "metrics": {"address": str(values.metrics_address)},
            # Below what is mounted: that is made by the kubelet, for everybody to look into, and these are not.
            "paths": {"state": f"{_STATE}/agent", "run": f"{_RUN}/agent", "cgroup": _seen(values.cgroup)},
            "kubernetes": cluster,
        }
    ).removeprefix("---\n")


def _annotations(values: Values) -> dict[str, Any]:
    digest = hashlib.sha256(_configuration(values).encode()).hexdigest()
    found: dict[str, Any] = {
        "kubectl.kubernetes.io/default-container": "agent",
        "interceptor.io/config": Commented(
            "Agents read their configuration once: another one starts them anew.", digest[:16]
        ),
    }
    if not values.metrics_address.address.is_loopback:
        found |= {
            "prometheus.io/scrape": "true",
            "prometheus.io/path": "/metrics",
            "prometheus.io/port": str(values.metrics_address.port),
        }
    if not values.privileged:
        found["container.apparmor.security.beta.kubernetes.io/agent"] = Commented(
            "The runtime's profile forbids mounts.", "unconfined"
        )
    return found


def _pod(values: Values) -> dict[str, Any]:
    return {
        "serviceAccountName": AGENT,
        "priorityClassName": "system-node-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": Commented(
            "On every node, also one that is not ready yet: no pod is to start there before it.",
            [{"operator": "Exists"}],
        ),
        "hostPID": Commented("Pods' network namespaces are found by their processes, in /proc.", True),
        "hostNetwork": Commented(
            "It is there before the CNI, and what the agent before it left attached does not capture it.",
            True,
        ),
        "dnsPolicy": "ClusterFirstWithHostNet",
        "terminationGracePeriodSeconds": 30,
        "containers": [_container(values)],
        "volumes": [
            {"name": "config", "configMap": {"name": AGENT}},
            {
                "name": "root",
                "configMap": Commented(
                    "Made by the authority when it begins. The agent starts without it, and joins then: where an earlier "
                    "agent was, pods wait to be known, and so may the authority's.",
                    {"name": ROOTS, "optional": True},
                ),
            },
            {
                "name": "token",
                "projected": Commented(
                    "By which the node proves itself to the authority, and to nobody else.",
                    {
                        "defaultMode": 0o400,
                        "sources": [
                            {
                                "serviceAccountToken": {
                                    "audience": "interceptor-ca",
                                    "expirationSeconds": 3600,
                                    "path": "token",
                                }
                            }
                        ],
                    },
                ),
            },
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
            _host("cgroup", str(values.cgroup), "Directory"),
            _host("bpf", _BPF, "Directory"),
            _host("state", _STATE, "DirectoryOrCreate"),
            _host("run", _RUN, "DirectoryOrCreate"),
        ],
    }


def _container(values: Values) -> dict[str, Any]:
    return {
        "name": "agent",
        "image": values.image,
        "imagePullPolicy": values.image_pull_policy.value,
        "args": ["agent", "--config", f"{_CONFIG}/config.yaml"],
        "env": [
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "DAEMONSET", "value": AGENT},
        ],
        "startupProbe": Commented(
            "Compiling the programs takes a second, on a busy node a minute.",
            {**_probe(values, "/alive"), "periodSeconds": 2, "failureThreshold": 150},
        ),
        "readinessProbe": {**_probe(values, "/ready"), "periodSeconds": 5, "timeoutSeconds": 3},
        "livenessProbe": {
            **_probe(values, "/alive"),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "securityContext": _security(values),
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": Commented(
                "No limit of CPU: it carries the bytes of every pod of the node.", {"memory": "1Gi"}
            ),
        },
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG, "readOnly": True},
            {"name": "root", "mountPath": _ROOT, "readOnly": True},
            {"name": "token", "mountPath": _TOKEN, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- its own mount
            {"name": "cgroup", "mountPath": _seen(values.cgroup), "readOnly": True, **_from_host()},
            {"name": "bpf", "mountPath": _BPF, **_from_host()},
            {"name": "state", "mountPath": _STATE},
            {"name": "run", "mountPath": _RUN, **_from_host()},
        ],
    }


def _security(values: Values) -> dict[str, Any]:
    if values.privileged:
        return {"privileged": True, "readOnlyRootFilesystem": True}
    return {
        "readOnlyRootFilesystem": True,
        "seccompProfile": Commented(
            "The runtime's profile forbids bpf() and keyctl().", {"type": "Unconfined"}
        ),
        "capabilities": {
            "drop": ["ALL"],
            "add": [Commented(why, name) for why, name in _CAPABILITIES],
        },
    }


def _probe(values: Values, path: str) -> dict[str, Any]:
    """Asked by the kubelet on the node itself, as the agent is in its network."""
    address = values.metrics_address.address
    host = ip_address("127.0.0.1" if address.version == 4 else "::1") if address.is_unspecified else address
    return {"httpGet": {"host": str(host), "path": path, "port": values.metrics_address.port}}


def _seen(path: Path) -> str:
    """Where the agent sees the node's cgroups: at their own place it has those of its container."""
    return f"/host{path}"


def _host(name: str, path: str, sort: str) -> dict[str, Any]:
    return {"name": name, "hostPath": {"path": path, "type": sort}}


def _from_host() -> dict[str, Any]:
    """What the node mounts there later is seen too."""
    return {"mountPropagation": "HostToContainer"}
