"""What an API server checks of the objects that we print, as far as a slip of ours could break it.

Sources: kubernetes.io, the references of each kind ("PodSpec v1 core" and so on) for the fields, "Object Names and IDs"
and "Labels and Selectors" for the forms.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PATH_SEGMENT = re.compile(r"[^/%]+")  # RBAC's names
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(m|Mi|Gi)?")
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_ENV = re.compile(r"[A-Z][A-Z0-9_]*")

NAMESPACED = {
    "ServiceAccount": "v1",
    "ConfigMap": "v1",
    "Service": "v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "Deployment": "apps/v1",
    "DaemonSet": "apps/v1",
}
CLUSTER_WIDE = {
    "Namespace": "v1",
    "ClusterRole": "rbac.authorization.k8s.io/v1",
    "ClusterRoleBinding": "rbac.authorization.k8s.io/v1",
    "CustomResourceDefinition": "apiextensions.k8s.io/v1",
    "ValidatingAdmissionPolicy": "admissionregistration.k8s.io/v1",
    "ValidatingAdmissionPolicyBinding": "admissionregistration.k8s.io/v1",
}
_POD = {
    "containers",
    "dnsPolicy",
    "hostNetwork",
    "hostPID",
    "nodeSelector",
    "priorityClassName",
    "securityContext",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
}
_CONTAINER = {
    "name",
    "image",
    "imagePullPolicy",
    "args",
    "env",
    "ports",
    "startupProbe",
    "readinessProbe",
    "livenessProbe",
    "securityContext",
    "resources",
    "volumeMounts",
}
_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation",
    "capabilities",
    "privileged",
    "readOnlyRootFilesystem",
    "seccompProfile",
}
_POD_SECURITY = {"fsGroup", "runAsGroup", "runAsNonRoot", "runAsUser", "seccompProfile"}
_PROBE = {"httpGet", "periodSeconds", "timeoutSeconds", "failureThreshold"}
_HTTP_GET = {"host", "path", "port", "scheme"}
_MOUNT = {"name", "mountPath", "readOnly", "mountPropagation"}
_SOURCES = {"configMap", "emptyDir", "hostPath", "projected"}
_CAPABILITIES = {"SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "DAC_OVERRIDE", "ALL"}


def problems(objects: list[Json]) -> list[str]:
    """Everything that is wrong, one line each."""
    found = [
        f"{each['kind']} {each['metadata']['name']}: {problem}" for each in objects for problem in _of(each)
    ]
    keys = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
    return [*found, *(f"{key} is there twice" for key in {key for key in keys if keys.count(key) > 1})]


def _of(value: Json) -> Iterator[str]:
    kind, metadata = value["kind"], value["metadata"]
    expected = {**NAMESPACED, **CLUSTER_WIDE}.get(kind)
    if value["apiVersion"] != expected:
        yield f"apiVersion {value['apiVersion']}, expected {expected}"
    if ("namespace" in metadata) is not (kind in NAMESPACED):
        yield "a namespace where there must be none, or none where one must be"
    form = _PATH_SEGMENT if kind.endswith(("Role", "Binding")) else _SUBDOMAIN
    if not form.fullmatch(metadata["name"]) or len(metadata["name"]) > 253:
        yield f"the name {metadata['name']}"
    yield from _labels(metadata["labels"])
    if kind in ("Deployment", "DaemonSet"):
        yield from _workload(value["spec"])
    if kind in ("Role", "ClusterRole"):
        for rule in value["rules"]:
            if "create" in rule["verbs"] and "resourceNames" in rule:
                yield "a right to create cannot name its object"


def _labels(labels: Json) -> Iterator[str]:
    for key, label in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(label):
            yield f"the label {key}={label}"


def _workload(spec: Json) -> Iterator[str]:
    template = spec["template"]
    labels = template["metadata"]["labels"]
    yield from _labels(labels)
    if not spec["selector"]["matchLabels"].items() <= labels.items():
        yield "its selector does not match its pods"
    if any("version" in key for key in spec["selector"]["matchLabels"]):
        yield "its selector would change, which it cannot"
    for annotation in template["metadata"].get("annotations", {}).values():
        if not isinstance(annotation, str):
            yield f"the annotation {annotation!r} is no text"
    yield from _pod(template["spec"])


def _pod(pod: Json) -> Iterator[str]:
    yield from _unknown("the pod", pod, _POD)
    yield from _unknown("its securityContext", pod.get("securityContext", {}), _POD_SECURITY)
    volumes = {}
    for volume in pod["volumes"]:
        (source,) = set(volume) - {"name"}
        volumes[volume["name"]] = volume[source]
        if source not in _SOURCES:
            yield f"a volume of {source}"
    if len(volumes) != len(pod["volumes"]):
        yield "a volume is there twice"
    mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    if mounted != set(volumes):
        yield f"mounted and there differ by {mounted ^ set(volumes)}"
    for container in pod["containers"]:
        yield from _container(container, host_network=pod.get("hostNetwork", False))


def _container(container: Json, *, host_network: bool) -> Iterator[str]:
    yield from _unknown("the container", container, _CONTAINER)
    yield from _unknown("its securityContext", container["securityContext"], _CONTAINER_SECURITY)
    capabilities = container["securityContext"].get("capabilities", {})
    yield from _unknown(
        "its capabilities", {each: None for names in capabilities.values() for each in names}, _CAPABILITIES
    )
    ports = {port["name"] for port in container.get("ports", [])}
    if host_network and ports:
        yield "its ports would be the host's, and keep a second pod from the node"
    for name in ports:
        if not _PORT_NAME.fullmatch(name):
            yield f"the port {name}"
    for argument in container["args"]:
        if not isinstance(argument, str):
            yield f"the argument {argument!r} is no text"
    for variable in container["env"]:
        if not _ENV.fullmatch(variable["name"]) or len(variable) != 2:
            yield f"the variable {variable}"
    for probe in (container[name] for name in container if name.endswith("Probe")):
        yield from _unknown("a probe", probe, _PROBE)
        yield from _unknown("a probe", probe["httpGet"], _HTTP_GET)
        port = probe["httpGet"]["port"]
        if isinstance(port, str) and port not in ports:
            yield f"a probe of port {port}, which is none"
    for amounts in container["resources"].values():
        yield from (f"the quantity {each}" for each in amounts.values() if not _QUANTITY.fullmatch(each))
    places = [mount["mountPath"] for mount in container["volumeMounts"]]
    if len(set(places)) != len(places) or not all(place.startswith("/") for place in places):
        yield "a place is mounted twice, or is none"
    is_privileged = container["securityContext"].get("privileged", False)
    for mount in container["volumeMounts"]:
        yield from _unknown("a mount", mount, _MOUNT)
        if mount.get("mountPropagation") == "Bidirectional" and not is_privileged:
            yield "Bidirectional is for privileged containers only"


def _unknown(what: str, value: Json, known: set[str]) -> Iterator[str]:
    if unknown := set(value) - known:
        yield f"{what} has {sorted(unknown)}, which is not known"
