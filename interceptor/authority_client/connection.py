"""One connection to the authority's service: TLS, and HTTP/1.1 requests one after the other."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
import trio

from interceptor.errors import AuthorityUnavailable
from interceptor.transport.sockets import family_of, socket_address, tune
from interceptor.transport.streams import StreamBroken
from interceptor.transport.tls import RECORD_BYTES, TlsStream

if TYPE_CHECKING:
    from interceptor.transport.tls import TlsContext
    from interceptor.workload import Endpoint

CONNECT_SECONDS = 5.0
HANDSHAKE_SECONDS = 10.0
MAX_HEADER_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a whole body."""

    status: int
    body: bytes


class Connection:
    """One connection after its handshake; not to be used again after an exception."""

    def __init__(self, sock: socket.socket, stream: TlsStream, endpoint: Endpoint) -> None:
        self.stream = stream
        self.is_usable = True
        self.has_answered = False  # the last question, with one byte at least
        self._socket = sock
        self._endpoint = endpoint
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._buffer = memoryview(bytearray(RECORD_BYTES))

    async def ask(self, method: str, target: str, body: bytes, limit: int) -> Answer:
        """One request and its answer, of at most `limit` bytes; AuthorityUnavailable when none comes."""
        self.is_usable = self.has_answered = False
        try:
            await self.stream.send_all(memoryview(self._request(method, target, body)))
            answer = await self._answer(limit)
        except StreamBroken as error:
            raise AuthorityUnavailable(f"the authority at {self._endpoint} went away: {error}") from error
        except h11.RemoteProtocolError as error:
            raise AuthorityUnavailable(f"what answers at {self._endpoint} speaks no HTTP: {error}") from error
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self.is_usable = True
        return answer

    def _request(self, method: str, target: str, body: bytes) -> bytes:
        headers = [("Host", str(self._endpoint)), ("Content-Length", str(len(body)))]
        if body:
            headers.append(("Content-Type", "application/json"))
        pieces = [
            self._http.send(h11.Request(method=method, target=target, headers=headers)),
            self._http.send(h11.Data(data=body)),
            self._http.send(h11.EndOfMessage()),
        ]
        return b"".join(piece for piece in pieces if piece)

    async def _answer(self, limit: int) -> Answer:
        status, body = 0, bytearray()
        while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                count = await self.stream.receive_into(self._buffer)
                self.has_answered = self.has_answered or count > 0
                self._http.receive_data(bytes(self._buffer[:count]))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.ConnectionClosed):
                raise StreamBroken("it closed the connection without an answer")
            if len(body) > limit:
                raise AuthorityUnavailable(
                    f"the answer of the authority at {self._endpoint} has more than {limit} bytes"
                )
        return Answer(status, bytes(body))

    def close(self) -> None:
        self.is_usable = False
        self._socket.close()


async def connect(endpoint: Endpoint, context: TlsContext) -> Connection:
    """Connect and shake hands; AuthorityUnavailable when that does not work, PeerRejected for who is there."""
    sock = socket.socket(family_of(endpoint.address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await _connect(sock, endpoint)
        tune(sock)
        stream = TlsStream(context, sock, server_side=False)
        with trio.fail_after(HANDSHAKE_SECONDS):
            await stream.handshake()
    except StreamBroken as error:
        sock.close()
        raise AuthorityUnavailable(f"the authority at {endpoint} went away: {error}") from error
    except trio.TooSlowError:
        sock.close()
        raise AuthorityUnavailable(
            f"the authority at {endpoint} did not finish the TLS handshake within {HANDSHAKE_SECONDS:g} s"
        ) from None
    except BaseException:
        sock.close()
        raise
    return Connection(sock, stream, endpoint)


async def _connect(sock: socket.socket, endpoint: Endpoint) -> None:
    result = sock.connect_ex(socket_address(endpoint))
    if result == errno.EINPROGRESS:
        with trio.move_on_after(CONNECT_SECONDS) as scope:
            await trio.lowlevel.wait_writable(sock)
        if scope.cancelled_caught:
            raise AuthorityUnavailable(
                f"the authority at {endpoint} did not answer within {CONNECT_SECONDS:g} s"
            )
        result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if result:
        raise AuthorityUnavailable(f"the authority at {endpoint} cannot be reached: {os.strerror(result)}")
