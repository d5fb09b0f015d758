"""A policy object of Istio's, kept as the document that it is: what it means is the business of `policy`."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from interceptor.cluster.condition import POLICY_CONDITION, Told, told
from interceptor.cluster.fields import Fields
from interceptor.cluster.head import Head
from interceptor.errors import InvalidInput

API_VERSION: Final = "security.istio.io/v1"
PEER_AUTHENTICATION: Final = "PeerAuthentication"
AUTHORIZATION_POLICY: Final = "AuthorizationPolicy"
MAX_CHARACTERS: Final = 256 * 1024
MAX_GENERATION: Final = 2**63 - 1
# The whole object once more, as it was given to kubectl.
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class PolicyObject:
    """One object; `text` is its document in JSON, which is YAML, without what the API adds.

    `generation` counts the changes of what it says; `told` is what the authority wrote into its status.
    """

    head: Head
    sort: str
    text: str
    generation: int = 0
    told: Told | None = None

    @property
    def place(self) -> str:
        """What it is called where a file would be."""
        return f"{self.sort} {self.head.key}"


def parse_policy_object(sort: str, head: Head, value: object) -> PolicyObject:
    """Raises InvalidInput."""
    fields = Fields(f"{sort} {head.key}", value)
    annotations = dict(fields.part("metadata").mapping("annotations"))
    annotations.pop(_LAST_APPLIED, None)
    metadata: dict[str, Any] = {"name": head.key.name, "namespace": head.key.namespace}
    if annotations:
        metadata["annotations"] = annotations
    document = {"apiVersion": API_VERSION, "kind": sort, "metadata": metadata, "spec": fields.any("spec")}
    text = json.dumps(document, indent=1)  # a line for each value: a message can name it
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(
            f"{sort} {head.key} has {len(text)} characters, at most {MAX_CHARACTERS} are allowed"
        )
    generation = fields.part("metadata").number("generation", 0, MAX_GENERATION) or 0
    return PolicyObject(head, sort, text, generation, told(value, POLICY_CONDITION))


parse_peer_authentication = partial(parse_policy_object, PEER_AUTHENTICATION)
parse_authorization_policy = partial(parse_policy_object, AUTHORIZATION_POLICY)
