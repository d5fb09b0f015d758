"""A namespace: its labels say whether its pods are in the mesh."""

from dataclasses import dataclass
from typing import Final

from interceptor.cluster.head import Head, parse_labels
from interceptor.labels import Labels

WHAT: Final = "namespace"


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace; its key's namespace is empty."""

    head: Head
    labels: Labels


def parse_namespace(head: Head, value: object) -> Namespace:
    """Raises InvalidInput."""
    return Namespace(head, parse_labels(f"{WHAT} {head.key}", value))
