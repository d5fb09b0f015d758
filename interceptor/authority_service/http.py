"""HTTP/1.1 on one connection: requests in, answers out, every size and every wait bounded (h11, RFC 9112)."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import format_datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import h11
import trio

from interceptor.authority.refusal import Code, Refused
from interceptor.errors import quoted
from interceptor.transport.streams import StreamBroken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from interceptor.transport.streams import ByteStream

MAX_HEADER_BYTES = 16 * 1024
MAX_QUERY_FIELDS = 8
LINGER_SECONDS = 1.0  # how long what a refused client still sends is read, so that it can read our answer
LINGER_BYTES = 4 * 1024 * 1024

_VERSIONS = (b"1.1", b"1.0")
_NOT_MODIFIED = 304  # has no body (RFC 9110, 15.4.5)
_HEADER_TOO_LARGE = 431  # RFC 6585, as h11 says it


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a client may take: to begin a request, from there to send all of it, and to take the answer."""

    idle_seconds: float = 120.0
    request_seconds: float = 10.0
    answer_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request with all of its body."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; its body is JSON."""

    status: int
    body: bytes = b""


class HttpConnection:
    """The server's side of one keep-alive connection.

    `scratch` may be shared by all connections of one event loop: what was received into it is taken out before
    anybody else runs.
    """

    def __init__(
        self,
        stream: ByteStream,
        scratch: memoryview,
        waits: Waits,
        body_limit: Callable[[str], int],
        now: Callable[[], datetime],
    ) -> None:
        """`body_limit` gives for a path how many bytes a request to it may have."""
        self._stream = stream
        self._scratch = scratch
        self._waits = waits
        self._body_limit = body_limit
        self._now = now
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)

    async def serve(
        self, answer: Callable[[Request], Awaitable[Response]], refuse: Callable[[Refused], Response]
    ) -> None:
        """Answer until the client leaves, is too slow, or sends what is no HTTP; StreamBroken when it was cut off."""
        try:
            while (request := await self._next_request()) is not None:
                await self._send(await answer(request))
                if self._http.our_state is h11.MUST_CLOSE:
                    break
                self._http.start_next_cycle()
        except (h11.RemoteProtocolError, Refused) as error:
            # It is told what was wrong, if it is its turn; the connection is of no more use.
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await self._send(refuse(_refused(error)), close=True)
        await self._end()

    async def _next_request(self) -> Request | None:
        """None when no (whole) request comes."""
        event = self._http.next_event()
        if event is h11.NEED_DATA:
            with trio.move_on_after(self._waits.idle_seconds) as idle:
                await self._receive()
            if idle.cancelled_caught:
                return None
            event = self._http.next_event()
        with trio.move_on_after(self._waits.request_seconds):
            while event is h11.NEED_DATA:
                await self._receive()
                event = self._http.next_event()
            if isinstance(event, h11.Request):
                return await self._with_body(event)
        return None

    async def _with_body(self, head: h11.Request) -> Request:
        if head.http_version not in _VERSIONS:
            raise Refused(
                Code.REQUEST_MALFORMED, f"HTTP {quoted(head.http_version.decode())} is not spoken here"
            )
        path, _, query = head.target.decode("ascii").partition("?")
        limit, body = self._body_limit(path), bytearray()
        announced = next((int(value) for name, value in head.headers if name == b"content-length"), 0)
        if announced > limit:
            raise _too_large(limit)
        while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                body += event.data
            else:
                await self._receive()
            if len(body) > limit:
                raise _too_large(limit)
        return Request(head.method.decode("ascii"), path, _parse_query(query), bytes(body))

    async def _receive(self) -> None:
        count = await self._stream.receive_into(self._scratch)
        self._http.receive_data(bytes(self._scratch[:count]))

    async def _send(self, response: Response, *, close: bool = False) -> None:
        headers = [("Date", format_datetime(self._now(), usegmt=True))]
        if response.status != _NOT_MODIFIED:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(response.body)))]
        if close:
            headers.append(("Connection", "close"))
        pieces = [
            self._http.send(h11.Response(status_code=response.status, headers=headers)),
            self._http.send(h11.Data(data=response.body)),
            self._http.send(h11.EndOfMessage()),
        ]
        with trio.move_on_after(self._waits.answer_seconds) as sending:
            await self._stream.send_all(memoryview(b"".join(piece for piece in pieces if piece)))
        if sending.cancelled_caught:
            raise StreamBroken("the client does not take its answer")

    async def _end(self) -> None:
        # Closing while bytes wait unread would reset the connection, and the client would lose our answer.
        left = LINGER_BYTES
        with trio.move_on_after(LINGER_SECONDS):
            await self._stream.finish_sending()
            while left > 0 and (count := await self._stream.receive_into(self._scratch)):
                left -= count


def _too_large(limit: int) -> Refused:
    return Refused(Code.REQUEST_TOO_LARGE, f"the request's body has more than {limit} bytes")


def _refused(error: h11.RemoteProtocolError | Refused) -> Refused:
    if isinstance(error, Refused):
        return error
    too_large = error.error_status_hint == _HEADER_TOO_LARGE
    code = Code.REQUEST_TOO_LARGE if too_large else Code.REQUEST_MALFORMED
    return Refused(code, f"this is no HTTP request: {quoted(str(error))}")


def _parse_query(query: str) -> Mapping[str, str]:
    try:
        fields = parse_qsl(
            query, keep_blank_values=True, strict_parsing=True, max_num_fields=MAX_QUERY_FIELDS
        )
    except ValueError:
        raise Refused(Code.REQUEST_MALFORMED, "the query of the request cannot be read") from None
    return dict(fields)
