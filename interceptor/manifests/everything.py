"""All of it, in the order in which it is applied; what is deleted in this order leaves nodes clean."""

from typing import Any

from interceptor import __version__
from interceptor.manifests.agent import agent
from interceptor.manifests.authority import authority
from interceptor.manifests.foundation import Objects, foundation
from interceptor.manifests.policy_definitions import policy_definitions
from interceptor.manifests.rights import rights
from interceptor.manifests.status_guard import status_guard
from interceptor.manifests.values import Definitions, Values
from interceptor.manifests.yaml_text import document, plain


def everything(values: Values, version: str = __version__) -> Objects:
    """The objects; raises UsageError when a value is missing."""
    values.require_complete()
    definitions = policy_definitions(version)
    if values.crds is Definitions.ONLY:
        return definitions
    # The namespace comes first, and its end is what agents hear first when all of it is deleted. Agents come last: what
    # they need, the Service by whose variables they find the authority among it, is there then.
    objects = [
        *foundation(values, version),
        *rights(values, version),
        *status_guard(values, version),
        *authority(values, version),
        *agent(values, version),
    ]
    return [*definitions, *objects] if values.crds is Definitions.INCLUDE else objects


def yaml_documents(objects: Objects) -> str:
    """One document for each object."""
    return "".join(document(each) for each in objects)


def json_list(objects: Objects) -> dict[str, Any]:
    """The same as one object, without comments."""
    return {"apiVersion": "v1", "kind": "List", "items": plain(objects)}
