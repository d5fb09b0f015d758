"""Objects as the Kubernetes API gives them, for tests: only what we read, and some fields that we do not."""

from collections.abc import Iterable, Mapping
from typing import Any

from interceptor.cluster.cluster import AnyObject, Changed, Cluster, Kind, Listed, Removed, parse_object
from interceptor.cluster.head import parse_head
from interceptor.cluster.table import Unreadable

Json = dict[str, Any]
MESH = {"interceptor.io/mesh": "enabled"}


def metadata(
    name: str, namespace: str, version: int, uid: str, labels: Mapping[str, str] | None = None
) -> Json:
    return {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        "uid": uid,
        "resourceVersion": str(version),
        "labels": dict(labels or {}),
        "managedFields": [{"manager": "kubelet"}],
    }


def namespace(name: str, *, version: int = 1, labels: Mapping[str, str] | None = None) -> Json:
    return {"metadata": metadata(name, "", version, f"uid-{name}", labels)}


def pod(
    path: str,
    *addresses: str,
    version: int = 1,
    uid: str = "",
    account: str | None = "default",
    node: str | None = "node-1",
    labels: Mapping[str, str] | None = None,
    phase: str = "Running",
    host_network: bool = False,
    deleting: bool = False,
) -> Json:
    """A pod `namespace/name`."""
    space, _, name = path.partition("/")
    head = metadata(name, space, version, uid or f"uid-{name}", labels)
    if deleting:
        head["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    spec: Json = {"nodeName": node, "serviceAccountName": account, "containers": [{"image": "nginx"}]}
    if host_network:
        spec["hostNetwork"] = True
    status: Json = {"phase": phase, "podIPs": [{"ip": address} for address in addresses]}
    return {"metadata": head, "spec": spec, "status": status}


def service(path: str, *addresses: str, version: int = 1, ports: Iterable[Json] = (), **spec: Any) -> Json:
    """A service `namespace/name`; without ports it has 80, called http."""
    space, _, name = path.partition("/")
    listed = list(ports) or [{"name": "http", "port": 80, "protocol": "TCP"}]
    return {
        "metadata": metadata(name, space, version, f"uid-{name}"),
        "spec": {"clusterIPs": list(addresses), "ports": listed, **spec},
    }


def endpoint(
    address: str,
    pod_name: str | None,
    *,
    uid: str = "",
    node: str | None = "node-1",
    zones: Iterable[str] = (),
    nodes: Iterable[str] = (),
    hostname: str | None = None,
    **conditions: bool,
) -> Json:
    made: Json = {"addresses": [address], "conditions": conditions, "nodeName": node}
    if hostname is not None:
        made["hostname"] = hostname
    if pod_name is not None:
        made["targetRef"] = {"kind": "Pod", "name": pod_name, "uid": uid or f"uid-{pod_name}"}
    if zones or nodes:
        made["hints"] = {
            "forZones": [{"name": zone} for zone in zones],
            "forNodes": [{"name": each} for each in nodes],
        }
    return made


def endpoint_slice(
    path: str,
    of: str | None,
    *endpoints: Json,
    version: int = 1,
    ports: Iterable[Json] = (),
    family: str = "IPv4",
) -> Json:
    """A slice `namespace/name` of the service `of`; without ports it has 8080, called http."""
    space, _, name = path.partition("/")
    labels = {"kubernetes.io/service-name": of} if of else {}
    return {
        "metadata": metadata(name, space, version, f"uid-{name}", labels),
        "addressType": family,
        "endpoints": list(endpoints),
        "ports": list(ports) or [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def policy(path: str, spec: Json | None = None, *, version: int = 1, **annotations: str) -> Json:
    """A policy object `namespace/name`; its kind is that of the list in which it is."""
    space, _, name = path.partition("/")
    head = metadata(name, space, version, f"uid-{name}")
    head["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}", **annotations}
    return {"metadata": head, "spec": spec or {}, "status": {"conditions": []}}


def read(kind: Kind, value: Json) -> AnyObject:
    """The object, which must be a good one."""
    found = parse_object(kind, value)
    assert not isinstance(found, Unreadable), found.problem
    return found


def changed(kind: Kind, value: Json) -> Changed:
    return Changed(kind, parse_object(kind, value))


def removed(kind: Kind, value: Json) -> Removed:
    return Removed(kind, parse_head(kind, value))


def listed(kind: Kind, version: int, *values: Json) -> Listed:
    return Listed(kind, version, tuple(parse_object(kind, value) for value in values))


def cluster_of(
    *,
    namespaces: Iterable[Json] = (),
    pods: Iterable[Json] = (),
    services: Iterable[Json] = (),
    slices: Iterable[Json] = (),
) -> Cluster:
    """A cluster of which all this was listed."""
    return (
        Cluster()
        .apply(listed(Kind.NAMESPACE, 100, *namespaces))
        .apply(listed(Kind.POD, 100, *pods))
        .apply(listed(Kind.SERVICE, 100, *services))
        .apply(listed(Kind.ENDPOINT_SLICE, 100, *slices))
    )
