"""An API server for tests: lists in pages, watches with bookmarks, and the faults of real ones, over real HTTP."""

from __future__ import annotations

import json
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import hypercorn.trio
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from interceptor.cluster.cluster import Kind
from interceptor.kubernetes.resource import ENDPOINT_SLICES, NAMESPACES, PODS, POLICIES, SERVICES
from tests.kubernetes.written import Written

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Json = dict[str, Any]
PATHS = {each.path: each.kind for each in (NAMESPACES, PODS, SERVICES, ENDPOINT_SLICES, *POLICIES)}
NODES = "/api/v1/nodes/{name}"
DAEMONSETS = "/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


@dataclass
class Faults:
    """What goes wrong, and for how long: until it is set back, or so many more times."""

    refuse: dict[Kind, int] = field(default_factory=dict)  # with this HTTP status
    garbage_lists: dict[Kind, int] = field(default_factory=dict)
    repeated: int = 1  # how often each event is sent
    reversed_events: bool = False  # what waits to be sent together is sent in the wrong order
    cut_after: int | None = None  # a watch breaks off in the middle of the event after so many
    silent: bool = False  # a watch sends nothing more, and its connection stays open


@dataclass(frozen=True)
class Change:
    version: int
    old: Json | None
    new: Json | None


class ApiServer:
    """Its objects are changed by `put` and `delete`; `requests` are those that were made, `METHOD path?query`."""

    def __init__(
        self, *, token: str | None = None, bookmark_seconds: float = 60.0, host: str = "127.0.0.1"
    ) -> None:
        self.host = host
        self.objects: dict[Kind, dict[str, Json]] = {kind: {} for kind in Kind}
        self.nodes: dict[str, Json] = {}
        self.nodes_are_forbidden = False
        self.faults = Faults()
        self.requests: list[str] = []
        self.token = token
        self.bookmark_seconds = bookmark_seconds
        self.version = 1000
        self._oldest = 0
        self.changes: dict[Kind, list[Change]] = {kind: [] for kind in Kind}
        self.changed = trio.Event()
        self.cut = {kind: trio.Event() for kind in Kind}
        self._rests: dict[str, tuple[int, list[Json]]] = {}
        self._texts: dict[str, tuple[str, bytes]] = {}  # by UID, of a version
        self._tokens = count()
        self.bound: dict[str, Json] = {}  # the status of a review of each token
        self.url = ""
        self.daemonsets: dict[str, Json] = {}  # by name
        self.routes: list[Route] = []  # beside its own
        self.written = Written(self)
        self.skew_seconds = 0.0  # by which its clock is ahead
        self.is_away = False  # every request fails, and watches are to be cut
        self.forbids: Callable[[str, str, str], str | None] = lambda *_: None  # method, path, query: why not

    def put(self, kind: Kind, value: Json) -> int:
        """Add or change an object; its version, which is the next one."""
        self.version += 1
        value = {**value, "metadata": {**value["metadata"], "resourceVersion": str(self.version)}}
        key = _key(value)
        self._tell(kind, Change(self.version, self.objects[kind].get(key), value))
        self.objects[kind][key] = value
        return self.version

    def delete(self, kind: Kind, key: str) -> None:
        """Remove the object `namespace/name`."""
        self.version += 1
        old = self.objects[kind].pop(key)
        self._tell(kind, Change(self.version, old, None))

    def put_node(self, name: str, labels: dict[str, str]) -> None:
        head = {"name": name, "uid": f"uid-{name}", "resourceVersion": "5", "labels": labels}
        self.nodes[name] = {"metadata": head, "status": {"images": ["much"]}}

    def bind_token(self, token: str, path: str, *, account: str, node: str, audience: str) -> None:
        """Vouch for a token of the pod `namespace/name`."""
        space, _, name = path.partition("/")
        extra = {
            "authentication.kubernetes.io/pod-name": [name],
            "authentication.kubernetes.io/pod-uid": [f"uid-{name}"],
            "authentication.kubernetes.io/node-name": [node],
        }
        user = {"username": f"system:serviceaccount:{space}:{account}", "extra": extra}
        self.bound[token] = {"authenticated": True, "audiences": [audience], "user": user}

    def send_raw(self, kind: Kind, line: bytes) -> None:
        """Send these bytes as a line to whoever watches the kind."""
        self._tell(kind, Change(self.version, None, {"raw": line.decode("latin-1")}))

    def cut_watches(self, *kinds: Kind) -> None:
        """Break off all watches that run, or those of some kinds."""
        for kind in kinds or Kind:
            cut, self.cut[kind] = self.cut[kind], trio.Event()
            cut.set()

    def forget_changes(self) -> None:
        """As etcd's compaction: a watch cannot begin at a version before now."""
        self._oldest = self.version

    def watches(self, kind: Kind) -> list[str]:
        """The watches of a kind that were asked for."""
        return [
            each for each in self.requests if PATHS.get(each.split("?")[0]) is kind and "watch=true" in each
        ]

    def lists(self, kind: Kind) -> list[str]:
        """The lists of a kind that were asked for, first pages only."""
        asked = (each for each in self.requests if PATHS.get(each.split("?")[0]) is kind)
        return [each for each in asked if "watch=true" not in each and "continue=" not in each]

    def _tell(self, kind: Kind, change: Change) -> None:
        self.changes[kind].append(change)
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    async def serve(
        self,
        certificate: Path | None = None,
        key: Path | None = None,
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve on a free port of `host`; over TLS with a certificate."""
        config = Config()
        config.bind = [f"{self.host}:0"]
        config.graceful_timeout = 0.1
        config.errorlog = None
        config.include_date_header = False  # its own, by a clock that may be wrong
        if certificate is not None:
            config.certfile, config.keyfile = str(certificate), str(key)
        routes = [Route(path, self._answer) for path in PATHS]
        own = [
            Route(NODES, self._answer_node),
            Route(DAEMONSETS, self._answer_daemonset),
            Route(REVIEWS, self._review, methods=["POST"]),
            *self.written.routes(),
        ]
        app = self._guarded(Starlette(routes=[*self.routes, *routes, *own]))
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(partial(hypercorn.trio.serve, app, config))  # type: ignore[arg-type]
            self.url = binds[0]
            task_status.started()

    def _guarded(self, app: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                send = self._dated(send)
                why_not = self.forbids(scope["method"], scope["path"], scope["query_string"].decode())
                if self.is_away or why_not:
                    await (_status(503, "away") if self.is_away else _status(403, why_not or ""))(
                        scope, receive, send
                    )
                    return
            await app(scope, receive, send)

        return guarded

    def _dated(self, send: Send) -> Send:
        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = formatdate(time.time() + self.skew_seconds, usegmt=True)
                message = {**message, "headers": [*message["headers"], (b"date", date.encode())]}
            await send(message)

        return dated

    def refusal(self, request: Request) -> Response | None:
        """Why a request beside those of the kinds is not answered."""
        return self._refusal(request, None)

    async def _review(self, request: Request) -> Response:
        asked = await request.json()
        if refusal := self._refusal(request, None):
            return refusal
        status = self.bound.get(asked["spec"]["token"], {"authenticated": False, "error": "unknown"})
        return JSONResponse({"kind": "TokenReview", "status": status}, status_code=201)

    async def _answer_daemonset(self, request: Request) -> Response:
        found = self.daemonsets.get(request.path_params["name"])
        return _status(404, "not found") if found is None else JSONResponse(found)

    async def _answer_node(self, request: Request) -> Response:
        self.requests.append(request.url.path)
        node = self.nodes.get(request.path_params["name"])
        if refusal := self._refusal(request, None):
            return refusal
        if self.nodes_are_forbidden:
            return _status(403, "nodes is forbidden")
        return _status(404, "not found") if node is None else JSONResponse(_shown(node, request))

    async def _answer(self, request: Request) -> Response:
        kind = PATHS[request.url.path]
        self.requests.append(f"{request.url.path}?{request.url.query}")
        if refusal := self._refusal(request, kind):
            return refusal
        if request.query_params.get("watch") == "true":
            return self._watch(request, kind)
        if self.faults.garbage_lists.get(kind, 0) > 0:
            self.faults.garbage_lists[kind] -= 1
            return Response(b"<html>\x00 a proxy in between </html>")
        return self._list(request, kind)

    def _refusal(self, request: Request, kind: Kind | None) -> Response | None:
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        status = self.faults.refuse.get(kind) if kind is not None else None
        return None if status is None else _status(status, f"{kind} is forbidden: User cannot list")

    def _list(self, request: Request, kind: Kind) -> Response:
        parameters = request.query_params
        if token := parameters.get("continue"):
            if token not in self._rests:
                return _status(410, "The provided continue parameter is too old")
            version, rest = self._rests.pop(token)
        else:
            selected = _selector(parameters.get("fieldSelector", ""))
            version, rest = self.version, [each for each in self.objects[kind].values() if selected(each)]
        limit = int(parameters.get("limit") or len(rest) or 1)
        metadata = {"resourceVersion": str(version)}
        if rest[limit:]:
            metadata["continue"] = f"token-{next(self._tokens)}"
            self._rests[metadata["continue"]] = (version, rest[limit:])
        items = b",".join(self._encoded(each, request) for each in rest[:limit])
        head = json.dumps({"kind": "List", "metadata": metadata})[:-1].encode()
        return Response(head + b', "items": [' + items + b"]}", media_type="application/json")

    def _encoded(self, value: Json, request: Request) -> bytes:
        """The object in JSON, made once for each version: the measure of a big cluster would wait for it."""
        if _is_metadata_only(request):
            return json.dumps(_shown(value, request)).encode()
        uid, version = value["metadata"]["uid"], value["metadata"]["resourceVersion"]
        known = self._texts.get(uid)
        if known is None or known[0] != version:
            known = self._texts[uid] = (version, json.dumps(value).encode())
        return known[1]

    def encode_everything(self) -> None:
        """Make the JSON of all objects now, and not when they are listed."""
        for kind in self.objects.values():
            for value in kind.values():
                metadata = value["metadata"]
                self._texts[metadata["uid"]] = (metadata["resourceVersion"], json.dumps(value).encode())

    def forget_pages(self) -> None:
        """The rest of lists that were begun cannot be had any more."""
        self._rests.clear()

    def _watch(self, request: Request, kind: Kind) -> Response:
        start = int(request.query_params["resourceVersion"])
        if start < self._oldest:
            error = {"kind": "Status", "code": 410, "message": f"too old resource version: {start}"}
            return StreamingResponse(_once(_line("ERROR", error)))
        return StreamingResponse(_Watch(self, kind, request, start))


class _Watch:
    """The lines of one watch; an iterator of its own, since a generator that is left half-way does not end."""

    def __init__(self, api: ApiServer, kind: Kind, request: Request, start: int) -> None:
        self._api = api
        self._request = request
        self._selected = _selector(request.query_params.get("fieldSelector", ""))
        self._changes = api.changes[kind]
        self._position = sum(each.version <= start for each in self._changes)
        self._pending: deque[bytes] = deque()
        self._sent = 0
        self._cut = api.cut[kind]

    def __aiter__(self) -> _Watch:
        return self

    async def __anext__(self) -> bytes:
        while not self._pending:
            await self._wait()
        if self._api.faults.silent:
            await trio.sleep_forever()
        line = self._pending.popleft()
        cut_after = self._api.faults.cut_after
        if cut_after is not None and self._sent >= cut_after:
            if self._sent > cut_after:
                raise _CutOffError
            line = line[: len(line) // 2]
        self._sent += 1
        return line

    async def _wait(self) -> None:
        """Until there is something to send: changes, or a bookmark after a while; or the watches are cut."""
        changed = self._api.changed
        if self._position == len(self._changes):
            with trio.move_on_after(self._api.bookmark_seconds):
                async with trio.open_nursery() as nursery:
                    for event in (changed, self._cut):
                        nursery.start_soon(_then_cancel, event, nursery.cancel_scope)
        if self._cut.is_set():
            raise _CutOffError
        changes = self._changes[self._position :]
        self._position += len(changes)
        lines = [line for each in changes for line in self._lines(each)]
        self._pending += reversed(lines) if self._api.faults.reversed_events else lines
        if not changes and self._request.query_params.get("allowWatchBookmarks") == "true":
            self._pending.append(_line("BOOKMARK", {"metadata": {"resourceVersion": str(self._api.version)}}))

    def _lines(self, change: Change) -> Iterator[bytes]:
        if change.new is not None and "raw" in change.new:
            yield change.new["raw"].encode("latin-1") + b"\n"
            return
        was = change.old is not None and self._selected(change.old)
        is_now = change.new is not None and self._selected(change.new)
        if not was and not is_now:
            return
        sort = {(False, True): "ADDED", (True, True): "MODIFIED", (True, False): "DELETED"}[was, is_now]
        value = change.new if is_now else change.old
        assert value is not None
        shown = _shown(value, self._request)
        shown["metadata"] = {**shown["metadata"], "resourceVersion": str(change.version)}
        yield from [_line(sort, shown)] * self._api.faults.repeated


class _CutOffError(Exception):
    """The connection ends here."""


@asynccontextmanager
async def running(
    api: ApiServer, certificate: Path | None = None, key: Path | None = None
) -> AsyncIterator[ApiServer]:
    """Serve `api` as long as the block runs."""
    async with trio.open_nursery() as nursery:
        await nursery.start(api.serve, certificate, key)
        yield api
        nursery.cancel_scope.cancel()


async def _then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _once(line: bytes) -> AsyncIterator[bytes]:
    yield line


def _line(sort: str, value: Json) -> bytes:
    return json.dumps({"type": sort, "object": value}).encode() + b"\n"


def _status(code: int, message: str) -> Response:
    return JSONResponse({"kind": "Status", "code": code, "message": message}, status_code=code)


def _shown(value: Json, request: Request) -> Json:
    return {"metadata": value["metadata"]} if _is_metadata_only(request) else dict(value)


def _is_metadata_only(request: Request) -> bool:
    return "as=PartialObject" in request.headers["accept"]


def _key(value: Json) -> str:
    metadata = value["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}" if "namespace" in metadata else str(metadata["name"])


def _selector(text: str) -> Callable[[Json], bool]:
    """A field selector; of a path, `=` or `!=`, and a value."""
    terms = [each.replace("!=", " ! ").replace("=", " = ").split() for each in text.split(",") if each]

    def is_selected(value: Json) -> bool:
        for path, operator, wanted in terms:
            place: Any = value
            for part in path.split("."):
                place = place.get(part) or {}
            if (place == wanted) is (operator == "!"):
                return False
        return True

    return is_selected
