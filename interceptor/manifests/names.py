"""What the objects are called, and the labels by which they are found."""

from typing import Any, Final

AGENT: Final = "interceptor-agent"
AUTHORITY: Final = (
    "interceptor-authority"  # agents find its Service by the variables that are made of this name
)
ROOTS: Final = f"{AUTHORITY}-root"
NODES: Final = f"{AUTHORITY}-nodes"
AUTHORITY_PORT: Final = 15012
METRICS_PORT: Final = 15022  # the authority's
_NAME: Final = "app.kubernetes.io/name"
_COMPONENT: Final = "app.kubernetes.io/component"


def selector(component: str) -> dict[str, str]:
    """The labels that never change, since a selector cannot."""
    return {_NAME: "interceptor", _COMPONENT: component}


def labels(component: str, version: str) -> dict[str, str]:
    """The labels of an object."""
    return {
        **selector(component),
        "app.kubernetes.io/version": version,
        "app.kubernetes.io/part-of": "interceptor",
    }


def metadata(name: str, component: str, version: str, namespace: str | None = None) -> dict[str, Any]:
    """The head of an object; kinds that are in no namespace have none."""
    place = {} if namespace is None else {"namespace": namespace}
    return {"name": name, **place, "labels": labels(component, version)}
