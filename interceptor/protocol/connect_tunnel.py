"""HTTP CONNECT over an established mutual TLS connection (`http/1.1` framing).

One request, one answer, then raw bytes (RFC 9110 section 9.3.6).  h11 reads and
writes both; these two classes hold the rules of the tunnel: sizes, which
request is a tunnel request, and that nothing may follow the request before the
answer (data sent early would reach the application before the decision).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import h11

from interceptor.errors import InvalidInput
from interceptor.workload import Endpoint

if TYPE_CHECKING:
    from interceptor.workload import IPAddress

ALPN_PROTOCOL = b"http/1.1"
# As ztunnel's client; h11, nginx and Envoy take 16 KiB to 64 KiB of headers.
MAX_HEADER_BYTES = 16 * 1024
_MAX_TRACE_LENGTH = 64


class Status(IntEnum):
    """What an answer means; the same codes as HBONE (ztunnel)."""

    ESTABLISHED = 200
    NOT_A_TUNNEL_REQUEST = 400
    DENIED = 401
    UNREACHABLE = 503


class TunnelProtocolError(Exception):
    """The other side does not speak the tunnel's protocol; says what it did."""


@dataclass(frozen=True, slots=True)
class TunnelRequest:
    """What a client asks for: the application's endpoint, and where the request comes from."""

    target: Endpoint
    trace_id: str | None


@dataclass(frozen=True, slots=True)
class TunnelAnswer:
    """A server's answer, with the application's first bytes if they came along."""

    status: int
    early_data: bytes


class TunnelClient:
    """The source's side of the handshake."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)

    def request(self, target: Endpoint, *, source: Endpoint | None, trace_id: str, span_id: str) -> bytes:
        """The bytes of the request.

        `trace_id` (32 hexadecimal digits) and `span_id` (16) become a W3C
        `traceparent`; `source` becomes RFC 7239 `forwarded`.  Both are for the
        record at the other side, which trusts neither.
        """
        headers = [("Host", str(target)), ("Traceparent", f"00-{trace_id}-{span_id}-00")]
        if source is not None:
            headers.append(("Forwarded", f'for="{source}"'))
        request = h11.Request(method="CONNECT", target=str(target), headers=headers)
        return self._connection.send(request) + self._connection.send(h11.EndOfMessage())

    def receive(self, data: bytes) -> TunnelAnswer | None:
        """Feed received bytes; the answer once it is complete.  `b""` is the end of the stream."""
        try:
            self._connection.receive_data(data)
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise TunnelProtocolError(f"the answer is not HTTP: {error}") from error
        if event is h11.NEED_DATA:
            return None
        if isinstance(event, h11.Response):
            early, _ = (
                self._connection.trailing_data if event.status_code == Status.ESTABLISHED else (b"", False)
            )
            return TunnelAnswer(event.status_code, early)
        raise TunnelProtocolError(
            f"the other side ended the connection without an answer ({type(event).__name__})"
        )


class TunnelServer:
    """The destination's side of the handshake."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)

    def receive(self, data: bytes) -> TunnelRequest | None:
        """Feed received bytes; the request once it is complete.  TunnelProtocolError: answer 400."""
        try:
            self._connection.receive_data(data)
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                return None
            if not isinstance(event, h11.Request):
                raise TunnelProtocolError(f"no request came ({type(event).__name__})")
            request = self._parse(event)
            following = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise TunnelProtocolError(f"the request is not HTTP: {error}") from error
        if not isinstance(following, h11.EndOfMessage):
            raise TunnelProtocolError("the request has a body")
        if self._connection.trailing_data[0]:
            raise TunnelProtocolError("data was sent before the answer")
        return request

    def answer(self, status: Status) -> bytes:
        """The bytes of the answer; after ESTABLISHED the stream is the application's.

        None at all when the client has ended the connection: it waits for no answer.
        """
        if self._connection.our_state is h11.MUST_CLOSE:
            return b""
        if status is Status.ESTABLISHED:
            return self._connection.send(h11.Response(status_code=status, headers=[]))
        headers = [("Content-Length", "0"), ("Connection", "close")]
        return self._connection.send(h11.Response(status_code=status, headers=headers))

    def _parse(self, event: h11.Request) -> TunnelRequest:
        if event.method != b"CONNECT":
            raise TunnelProtocolError(f"the method is {event.method.decode('ascii')[:32]}, not CONNECT")
        try:
            target = Endpoint.parse(event.target.decode("ascii"))
        except (InvalidInput, UnicodeDecodeError) as error:
            raise TunnelProtocolError(f"the target is not an address and port: {error}") from error
        return TunnelRequest(target, _trace_id(dict(event.headers).get(b"traceparent", b"")))


def _trace_id(traceparent: bytes) -> str | None:
    parts = traceparent[:_MAX_TRACE_LENGTH].decode("ascii", errors="replace").split("-")
    if len(parts) != 4 or len(parts[1]) != 32 or not all(c in "0123456789abcdef" for c in parts[1]):
        return None
    return parts[1]


def is_target(request: TunnelRequest, local_address: IPAddress) -> bool:
    """Whether a request is for the workload that it reached.

    The address selects the serving identity, so a request for another address
    would use this workload's identity for someone else.
    """
    return request.target.address == local_address
