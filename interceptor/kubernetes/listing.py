"""Everything of one kind, page by page, and the zone of a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from interceptor.cluster.cluster import Listed
from interceptor.cluster.head import parse_head, parse_labels
from interceptor.cluster.wire import parse_json, parse_page
from interceptor.errors import ClusterError, InvalidInput
from interceptor.kubernetes.client import ApiRefusal

if TYPE_CHECKING:
    from interceptor.cluster.cluster import AnyObject
    from interceptor.cluster.table import Unreadable
    from interceptor.kubernetes.client import ApiClient
    from interceptor.kubernetes.resource import Resource

PAGE: Final = 250  # objects: a page is parsed in one go, some 20 ms, and holds the loop for so long
MAX_OBJECTS: Final = 1_000_000
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_NOT_FOUND: Final = 404


async def list_all(client: ApiClient, resource: Resource) -> Listed:
    """All objects, as of one version; ClusterError.

    A list that changes too fast for its pages ends with status 410, and can be begun again.
    """
    objects: list[AnyObject | Unreadable] = []
    parameters = {**resource.parameters, "limit": str(PAGE)}
    while True:
        body = await client.get(resource.path, parameters, resource.accept_list)
        try:
            page = parse_page(resource.kind, body)
        except InvalidInput as error:
            raise ClusterError(f"{resource.path}: the API's answer cannot be used: {error}") from None
        objects += page.objects
        if len(objects) > MAX_OBJECTS:
            raise ClusterError(f"{resource.path} has more than {MAX_OBJECTS} objects")
        if page.next_page is None:
            return Listed(resource.kind, page.version, tuple(objects))
        parameters = {**parameters, "continue": page.next_page}


async def zone_of_node(client: ApiClient, node: str) -> str | None:
    """The zone of a node, None when it has none or there is no such node; ClusterError."""
    path = f"/api/v1/nodes/{node}"
    try:
        value = parse_json(path, await client.get(path, {}, _METADATA))
        return parse_labels(f"node {parse_head('node', value).key}", value).get(ZONE_LABEL)
    except InvalidInput as error:
        raise ClusterError(f"{path}: the API's answer cannot be used: {error}") from None
    except ApiRefusal as error:
        if error.status == _NOT_FOUND:
            return None
        raise
