"""Requests to the API server: bounded answers, and watches line by line."""

from __future__ import annotations

from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import urlencode

import trio

from interceptor.cluster.wire import LineSplitter, parse_json, parse_status
from interceptor.errors import ClusterError, InvalidInput
from interceptor.kubernetes.connection import ConnectionBroken, connect, tls_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    from interceptor.kubernetes.access import ApiAccess
    from interceptor.kubernetes.connection import Connection

ANSWER_SECONDS: Final = 60.0  # a whole answer, but for that of a watch
POST_SECONDS: Final = 8.0  # somebody waits for it
# A bookmark comes about each minute; a connection that is silent for longer may be dead, and a new watch costs little.
SILENCE_SECONDS: Final = 150.0
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_OBJECT_BYTES: Final = 4 * 1024 * 1024  # it has at most 1.5 MiB in etcd, and JSON may be longer
MAX_STATUS_BYTES: Final = 64 * 1024
MAX_IDLE: Final = 4
_OK: Final = 200
_CREATED: Final = 201
_REMEDIES: Final = {
    401: ": the token is not accepted, look whether it has ended or is another cluster's",
    403: ": give the service account the right to get, list and watch it (RBAC)",
    404: ": the API server does not know it, look whether it is old enough or lacks a resource definition",
}
_POST_REMEDIES: Final = {**_REMEDIES, 403: ": give the service account the right to create it (RBAC)"}
_PATCH_REMEDIES: Final = {**_REMEDIES, 403: ": give the service account the right to patch it (RBAC)"}
_PUT_REMEDIES: Final = {**_REMEDIES, 403: ": give the service account the right to update it (RBAC)"}


class ApiRefusal(ClusterError):  # noqa: N818 -- a verdict on the request, and expected
    """The API server said no; `status` is that of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ApiClient:
    """Requests with the rights of one service account; many tasks may use it.  An async context manager.

    Every method raises ClusterError, of which ApiRefusal is what the server refused.
    """

    def __init__(self, access: ApiAccess) -> None:
        """Raises ClusterError when the CA's certificates cannot be used."""
        self._access = access
        self._context = tls_context(access)
        self._idle: list[Connection] = []
        self._heard: tuple[datetime, float] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._idle:
            await self._idle.pop().aclose()

    async def get(
        self, path: str, parameters: Mapping[str, str], accept: str, limit: int = MAX_ANSWER_BYTES
    ) -> bytes:
        """The body of an answer; once more if a connection had died while it was idle."""
        target = _target(path, parameters)
        try:
            with trio.fail_after(ANSWER_SECONDS):
                if self._idle:
                    connection = self._idle.pop()
                    try:
                        return await self._get(connection, target, accept, limit)
                    except ConnectionBroken:
                        if connection.has_answered:
                            raise
                return await self._get(await self._connect(), target, accept, limit)
        except trio.TooSlowError:
            raise ClusterError(
                f"the API server at {self._access.server} did not answer within {ANSWER_SECONDS:g} s"
            ) from None

    async def post(self, path: str, body: bytes, limit: int = MAX_STATUS_BYTES) -> bytes:
        """The body of the answer to a JSON body, which nobody may send twice: on a connection of its own."""
        return await self._send("POST", path, body, limit, _POST_REMEDIES)

    async def put(self, path: str, body: bytes, limit: int = MAX_STATUS_BYTES) -> bytes:
        """The same to replace an object; ApiRefusal with status 409 when the body names a version that is past."""
        return await self._send("PUT", path, body, limit, _PUT_REMEDIES)

    async def patch(self, path: str, body: bytes, sort: str, limit: int = MAX_OBJECT_BYTES) -> None:
        """Change an object by a patch of the media type `sort`; ApiRefusal with status 409 when it is not as it says."""
        await self._send("PATCH", path, body, limit, _PATCH_REMEDIES, sort)

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes,
        limit: int,
        remedies: Mapping[int, str],
        content_type: str = "application/json",
    ) -> bytes:
        try:
            with trio.fail_after(POST_SECONDS):
                connection = await self._connect()
                try:
                    status = await connection.ask(path, "application/json", body, method, content_type)
                    self._note_date(connection)
                    if status not in (_OK, _CREATED):
                        await _refuse(connection, status, path.partition("?")[0], remedies)
                    return await _read(connection, limit)
                finally:
                    await connection.aclose()
        except trio.TooSlowError:
            raise ClusterError(
                f"the API server at {self._access.server} did not answer within {POST_SECONDS:g} s"
            ) from None

    async def follow(
        self, path: str, parameters: Mapping[str, str], accept: str, on_line: Callable[[bytes], None]
    ) -> None:
        """Call `on_line` with each line of an answer until the server ends it, or is silent for too long.

        What `on_line` raises ends it too.  InvalidInput for a line that is too long.
        """
        splitter = LineSplitter()
        connection = await self._connect()
        try:
            with trio.move_on_after(SILENCE_SECONDS) as silence:
                status = await connection.ask(_target(path, parameters), accept)
                self._note_date(connection)
                await _require_ok(connection, status, path)
                while data := await connection.receive():
                    silence.deadline = trio.current_time() + SILENCE_SECONDS
                    for line in splitter.feed(data):
                        on_line(line)
        finally:
            await connection.aclose()

    async def _get(self, connection: Connection, target: str, accept: str, limit: int) -> bytes:
        try:
            status = await connection.ask(target, accept)
            self._note_date(connection)
            await _require_ok(connection, status, target.partition("?")[0])
            body = await _read(connection, limit)
        except BaseException:
            await connection.aclose()
            raise
        if connection.is_usable and len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            await connection.aclose()
        return body

    def time(self) -> datetime | None:
        """What the server's clock shows now, to a second or two; None while it was not heard."""
        if self._heard is None:
            return None
        said, at = self._heard
        return said + timedelta(seconds=trio.current_time() - at)

    def _note_date(self, connection: Connection) -> None:
        try:
            said = parsedate_to_datetime((connection.date or b"").decode("ascii"))
        except ValueError:
            return  # of a proxy, perhaps; nothing depends on it
        if said.tzinfo is not None:
            self._heard = (said, trio.current_time())

    async def _connect(self) -> Connection:
        return await connect(self._access, self._context)


def _target(path: str, parameters: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path


async def _require_ok(connection: Connection, status: int, path: str) -> None:
    if status != _OK:
        await _refuse(connection, status, path, _REMEDIES)


async def _refuse(connection: Connection, status: int, path: str, remedies: Mapping[int, str]) -> NoReturn:
    try:
        said = parse_status(parse_json("the answer", await _read(connection, MAX_STATUS_BYTES))).message
    except (ClusterError, InvalidInput):
        said = "it gave no reason"
    raise ApiRefusal(
        status, f"the API server refused {path} with status {status}, {said}{remedies.get(status, '')}"
    )


async def _read(connection: Connection, limit: int) -> bytes:
    parts, size = [], 0
    while data := await connection.receive():
        parts.append(data)
        size += len(data)
        if size > limit:
            raise ClusterError(f"an answer of the API server has more than {limit} bytes")
    return b"".join(parts)
