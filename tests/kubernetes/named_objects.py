"""What an API server keeps by name: created once, replaced only at the version that it has."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interceptor.cluster.cluster import Kind
from tests.kubernetes.api_server import ApiServer, _selector, _status

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

Json = dict[str, Any]
COLLECTIONS = (
    "/api/v1/namespaces/{namespace}/secrets",
    "/api/v1/namespaces/{namespace}/configmaps",
    "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
)
PODS = "/api/v1/namespaces/{namespace}/pods"


class NamedObjects:
    """Secrets, ConfigMaps and Leases of an ApiServer, by their paths.

    before_write  called, one after the other, before a write is looked at: somebody else may be faster in it
    writes        `METHOD path` of what was written
    """

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self.objects: dict[str, Json] = {}
        self.before_write: deque[Callable[[str], None]] = deque()
        self.writes: list[str] = []
        for path in COLLECTIONS:
            api.routes.append(Route(path, self._create, methods=["POST"]))
            api.routes.append(Route(f"{path}/{{name}}", self._get, methods=["GET"]))
            api.routes.append(Route(f"{path}/{{name}}", self._replace, methods=["PUT"]))
        api.routes.append(Route(PODS, self._pods))

    def touch(self, path: str) -> None:
        """Give an object another version, as somebody else's write would."""
        self._api.version += 1
        self.objects[path]["metadata"]["resourceVersion"] = str(self._api.version)

    def _keep(self, path: str, value: Json, request: Request) -> None:
        self._api.version += 1
        value["metadata"]["resourceVersion"] = str(self._api.version)
        self.objects[path] = value
        self.writes.append(f"{request.method} {path}")

    async def _get(self, request: Request) -> Response:
        value = self.objects.get(request.url.path)
        return _status(404, "not found") if value is None else JSONResponse(value)

    async def _create(self, request: Request) -> Response:
        value = json.loads(await request.body())
        path = f"{request.url.path}/{value['metadata']['name']}"
        self._let_others_be_faster(path)
        if path in self.objects:
            return _status(409, "already exists")
        self._keep(path, value, request)
        return JSONResponse(value, status_code=201)

    async def _replace(self, request: Request) -> Response:
        value, path = json.loads(await request.body()), request.url.path
        self._let_others_be_faster(path)
        if path not in self.objects:
            return _status(404, "not found")
        if value["metadata"]["resourceVersion"] != self.objects[path]["metadata"]["resourceVersion"]:
            return _status(409, "the object has been modified")
        self._keep(path, value, request)
        return JSONResponse(value)

    def _let_others_be_faster(self, path: str) -> None:
        if self.before_write:
            self.before_write.popleft()(path)

    async def _pods(self, request: Request) -> Response:
        selected = _selector(request.query_params.get("fieldSelector", ""))
        namespace = request.path_params["namespace"]
        items = [
            each
            for each in self._api.objects[Kind.POD].values()
            if each["metadata"]["namespace"] == namespace and selected(each)
        ]
        return JSONResponse({"metadata": {"resourceVersion": str(self._api.version)}, "items": items})
