"""What is written to an API server piece by piece: conditions in the status of objects, and Events."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interceptor.cluster.cluster import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request

    from tests.kubernetes.api_server import ApiServer

Json = dict[str, Any]
POD_STATUS = "/api/v1/namespaces/{namespace}/pods/{name}/status"
POLICIES = {
    "peerauthentications": Kind.PEER_AUTHENTICATION,
    "authorizationpolicies": Kind.AUTHORIZATION_POLICY,
}
EVENTS = "/apis/events.k8s.io/v1/namespaces/{namespace}/events"


class Written:
    """The writes to an ApiServer that it took, in their order, as `METHOD path` and body; Events by `namespace/name`."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self.writes: list[tuple[str, Json]] = []
        self.events: dict[str, Json] = {}
        self.before_patch: deque[Callable[[], None]] = deque()  # what others do just before it is looked at

    def routes(self) -> Iterator[Route]:
        yield Route(POD_STATUS, self._patch_pod, methods=["PATCH"])
        yield Route(EVENTS, self._create_event, methods=["POST"])
        yield Route(f"{EVENTS}/{{name}}", self._count_event, methods=["PATCH"])
        for plural in POLICIES:
            path = f"/apis/security.istio.io/v1/namespaces/{{namespace}}/{plural}/{{name}}"
            yield Route(path, self._get_policy, methods=["GET"])
            yield Route(f"{path}/status", self._patch_policy, methods=["PATCH"])

    def condition(self, kind: Kind, key: str, sort: str) -> Json | None:
        """The condition of this type of an object `namespace/name`."""
        conditions = self._api.objects[kind][key].get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == sort), None)

    def events_of(self, name: str) -> list[Json]:
        """The Events about the object of this name."""
        return [each for each in self.events.values() if each["regarding"]["name"] == name]

    async def _patch_pod(self, request: Request) -> Response:
        """A strategic merge, in which conditions are merged by their type."""
        body, key = await self._accepted(request, "application/strategic-merge-patch+json")
        if isinstance(body, Response):
            return body
        old = self._api.objects[Kind.POD].get(key)
        if old is None:
            return _refused(404, "pods not found")
        if body["metadata"]["uid"] != old["metadata"]["uid"]:
            return _refused(409, "Precondition failed: UID in precondition")
        conditions = {each["type"]: each for each in old["status"].get("conditions", [])}
        for each in body["status"]["conditions"]:
            conditions[each["type"]] = {**conditions.get(each["type"], {}), **each}
        return self._keep(
            Kind.POD, {**old, "status": {**old["status"], "conditions": [*conditions.values()]}}
        )

    async def _get_policy(self, request: Request) -> Response:
        if refusal := self._api.refusal(request):
            return refusal
        found = self._api.objects[_kind(request)].get(_key(request))
        return _refused(404, "not found") if found is None else JSONResponse(found)

    async def _patch_policy(self, request: Request) -> Response:
        """A JSON merge: lists are replaced."""
        body, key = await self._accepted(request, "application/merge-patch+json")
        if isinstance(body, Response):
            return body
        if self.before_patch:
            self.before_patch.popleft()()
        kind = _kind(request)
        old = self._api.objects[kind].get(key)
        if old is None:
            return _refused(404, "not found")
        if body["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]:
            return _refused(409, "the object has been modified")
        return self._keep(kind, {**old, "status": {**old.get("status", {}), **body["status"]}})

    async def _create_event(self, request: Request) -> Response:
        body, _ = await self._accepted(request, "application/json")
        if isinstance(body, Response):
            return body
        key = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
        if problem := _event_problem(body, request):
            return _refused(422, problem)
        if key in self.events:
            return _refused(409, "already exists")
        self.events[key] = body
        return JSONResponse(body, status_code=201)

    async def _count_event(self, request: Request) -> Response:
        body, key = await self._accepted(request, "application/merge-patch+json")
        if isinstance(body, Response):
            return body
        if key not in self.events:
            return _refused(404, "not found")
        self.events[key] |= body
        return JSONResponse(self.events[key])

    async def _accepted(self, request: Request, content_type: str) -> tuple[Any, str]:
        """The body, or why not; and which object."""
        if refusal := self._api.refusal(request):
            return refusal, ""
        if request.headers.get("content-type") != content_type:
            return _refused(415, "the body of the request was in an unknown format"), ""
        body = json.loads(await request.body())
        self.writes.append((f"{request.method} {request.url.path}", body))
        return body, _key(request)

    def _keep(self, kind: Kind, value: Json) -> Response:
        self._api.put(kind, value)
        return JSONResponse(value)


def _kind(request: Request) -> Kind:
    return POLICIES[request.url.path.split("/")[6]]


def _key(request: Request) -> str:
    return f"{request.path_params['namespace']}/{request.path_params.get('name', '')}"


def _refused(code: int, message: str) -> Response:
    return JSONResponse({"kind": "Status", "code": code, "message": message}, status_code=code)


def _event_problem(event: Json, request: Request) -> str | None:
    """As Kubernetes' own validation of new Events (pkg/apis/core/validation/events.go)."""
    lengths = {"reason": 128, "action": 128, "reportingInstance": 128, "note": 1024}
    for name, limit in lengths.items():
        if not 0 < len(event[name].encode()) <= limit:
            return f"{name}: Invalid value"
    if (
        event["type"] not in ("Normal", "Warning")
        or not event["reportingController"]
        or not event["eventTime"]
    ):
        return "Invalid value"
    regarding = event["regarding"].get("namespace", "default")
    if not event["metadata"]["namespace"] == regarding == request.path_params["namespace"]:
        return "involvedObject.namespace: does not match event.namespace"
    return None
