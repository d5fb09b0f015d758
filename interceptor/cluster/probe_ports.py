"""The ports of a pod that its kubelet connects to: for probes and for hooks of its containers' lives.

Source: API reference, Container v1 (`livenessProbe`, `readinessProbe`, `startupProbe`, `lifecycle`). What is not
understood there is no port: it opens nothing, and is no reason not to know the pod.
"""

from collections.abc import Iterator
from typing import Any, Final

from interceptor.workload import MAX_PORT

MAX_CONTAINERS: Final = 256  # of each sort
MAX_PORTS: Final = 64  # of one pod
_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_HOOKS: Final = ("postStart", "preStop")
_HANDLERS: Final = ("httpGet", "tcpSocket", "grpc")

_Json = dict[str, Any]


def probe_ports(spec: object) -> tuple[int, ...]:
    """The ports, sorted, by the `spec` of a pod."""
    containers = (*_objects(spec, "containers"), *_objects(spec, "initContainers"))
    found = {port for container in containers for port in _ports_of(container)}
    return tuple(sorted(found)[:MAX_PORTS])


def _ports_of(container: _Json) -> Iterator[int]:
    named = {each.get("name"): each.get("containerPort") for each in _objects(container, "ports")}
    lifecycle = _object(container, "lifecycle")
    for handled in (
        *(_object(container, name) for name in _PROBES),
        *(_object(lifecycle, name) for name in _HOOKS),
    ):
        for name in _HANDLERS:
            handler = _object(handled, name)
            if not handler.get("host"):  # else it is somebody else who is asked
                port = _number(handler.get("port"), named)
                if port is not None:
                    yield port


def _number(port: object, named: dict[Any, Any]) -> int | None:
    """A port by its number, or by the name that the container gives it ("IntOrString")."""
    if isinstance(port, str):
        port = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else named.get(port)
    return port if type(port) is int and 0 < port <= MAX_PORT else None


def _object(value: object, name: str) -> _Json:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _objects(value: object, name: str) -> list[_Json]:
    found = value.get(name) if isinstance(value, dict) else None
    return (
        [each for each in found[:MAX_CONTAINERS] if isinstance(each, dict)] if isinstance(found, list) else []
    )
