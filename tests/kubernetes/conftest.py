"""An API server with a small shop in it."""

from collections.abc import AsyncIterator

import pytest

from interceptor.cluster.cluster import Kind
from tests.cluster.api_objects import MESH, endpoint, endpoint_slice, namespace, pod, service
from tests.kubernetes.api_server import ApiServer, running


def fill(api: ApiServer) -> None:
    """A namespace in the mesh, with two pods behind a service, and one that is not."""
    api.put(Kind.NAMESPACE, namespace("shop", labels=MESH))
    api.put(Kind.NAMESPACE, namespace("bank"))
    api.put(Kind.POD, pod("shop/web-1", "10.0.0.1", account="web"))
    api.put(Kind.POD, pod("shop/web-2", "10.0.0.2", account="web", node="node-2"))
    api.put(Kind.POD, pod("bank/ledger", "10.0.0.3", account="ledger"))
    api.put(Kind.SERVICE, service("shop/web", "10.96.0.1"))
    ends = endpoint("10.0.0.1", "web-1"), endpoint("10.0.0.2", "web-2", node="node-2")
    api.put(Kind.ENDPOINT_SLICE, endpoint_slice("shop/web-x", "web", *ends))
    api.put_node("node-1", {"topology.kubernetes.io/zone": "zone-a"})
    api.put_node("node-2", {})


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    """Bookmarks come ten times a second, so that tests need not wait for them."""
    made = ApiServer(bookmark_seconds=0.1)
    fill(made)
    async with running(made):
        yield made
