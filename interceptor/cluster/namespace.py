"""A namespace: its labels say whether its pods are in the mesh."""

from dataclasses import dataclass
from typing import Final

from interceptor.cluster.fields import Fields
from interceptor.cluster.head import Head, parse_labels
from interceptor.labels import Labels

WHAT: Final = "namespace"


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace; its key's namespace is empty."""

    head: Head
    labels: Labels
    is_deleting: bool = False


def parse_namespace(head: Head, value: object) -> Namespace:
    """Raises InvalidInput."""
    metadata = Fields(f"{WHAT} {head.key}", value).part("metadata")
    deletion = metadata.optional_text("deletionTimestamp")
    return Namespace(head, parse_labels(f"{WHAT} {head.key}", value), deletion is not None)
