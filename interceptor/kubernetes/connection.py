"""One connection to the API server: TLS that is verified by the cluster's CA, and HTTP/1.1 requests one after the other.

h11 on a trio stream, and no HTTP library: their response bodies are generators inside generators, which do not end
when a watch is left half-way, and they bound neither a line nor an answer.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import h11
import trio

from interceptor import __version__
from interceptor.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.kubernetes.access import ApiAccess

CONNECT_SECONDS: Final = 10.0
MAX_HEADER_BYTES: Final = 64 * 1024
CHUNK_BYTES: Final = 256 * 1024


class ConnectionBroken(ClusterError):  # noqa: N818 -- what happened, not whose fault
    """The connection ended before the answer did."""


class Connection:
    """A client's end; every method raises ConnectionBroken.

    has_answered  whether the server has said anything to the present request
    date          when the server answered last, by its own clock, in HTTP's words; None when it did not say
    """

    def __init__(self, stream: trio.abc.Stream, access: ApiAccess) -> None:
        self._stream = stream
        self._access = access
        self._http = h11.Connection(h11.CLIENT, MAX_HEADER_BYTES)
        self.has_answered = False
        self.date: bytes | None = None

    async def ask(
        self,
        target: str,
        accept: str,
        body: bytes | None = None,
        method: str = "POST",
        content_type: str = "application/json",
    ) -> int:
        """Send a GET request, or a JSON body by another; the status of its answer, whose body `receive` gives."""
        self.has_answered = False
        headers = {
            "host": urlsplit(self._access.server).netloc,
            "accept": accept,
            "accept-encoding": "identity",  # what is sent compressed has no bound before it is unpacked
            "user-agent": f"interceptor/{__version__}",
            **self._access.authorization(),
        }
        if body is not None:
            headers |= {"content-type": content_type, "content-length": str(len(body))}
        await self._send("GET" if body is None else method, target, headers, body or b"")
        event = await self._next_event()
        assert isinstance(event, h11.Response), (
            "h11 passes over interim ones, and nothing else can come first"
        )
        self.date = dict(event.headers).get(b"date")
        return event.status_code

    async def receive(self) -> bytes:
        """The next part of the body, nothing at its end."""
        event = await self._next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    @property
    def is_usable(self) -> bool:
        """Whether another request can be sent, now that the answer was read to its end."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def aclose(self) -> None:
        """Close at once, in whatever state."""
        await trio.aclose_forcefully(self._stream)

    async def _send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        if self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        request = h11.Request(method=method, target=target, headers=list(headers.items()))
        parts = (request, *([h11.Data(body)] if body else []), h11.EndOfMessage())
        data = b"".join(self._http.send(part) or b"" for part in parts)
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken(error) from None

    async def _next_event(self) -> h11.Event:
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Event) and not isinstance(event, h11.InformationalResponse):
                    return event
                if event is h11.NEED_DATA:
                    data = bytes(await self._stream.receive_some(CHUNK_BYTES))
                    self.has_answered = self.has_answered or data != b""
                    self._http.receive_data(data)
        except (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> ConnectionBroken:
        return ConnectionBroken(f"the API server at {self._access.server} went away: {_reason(error)}")


async def connect(access: ApiAccess, context: ssl.SSLContext | None) -> Connection:
    """Connect, over TLS with a context; raises ClusterError."""
    url = urlsplit(access.server)
    host, port = url.hostname or "", url.port or (443 if context else 80)
    try:
        with trio.fail_after(CONNECT_SECONDS):
            stream: trio.abc.Stream = await trio.open_tcp_stream(host, port)
            if context is not None:
                stream = await _over_tls(stream, context, host)
    except trio.TooSlowError:
        raise ClusterError(
            f"the API server at {access.server} did not answer within {CONNECT_SECONDS:g} s"
        ) from None
    except (OSError, trio.BrokenResourceError) as error:
        raise ClusterError(f"the API server at {access.server} cannot be reached: {_reason(error)}") from None
    return Connection(stream, access)


async def _over_tls(stream: trio.abc.Stream, context: ssl.SSLContext, host: str) -> trio.abc.Stream:
    try:
        secure = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
        await secure.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secure


def tls_context(access: ApiAccess) -> ssl.SSLContext | None:
    """How the server is verified, None when it is asked in plaintext; raises ClusterError."""
    if access.ca_file is None:
        return None
    # Not create_default_context: with an empty file it would believe every CA that this machine knows.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=access.ca_file.read_text("ascii"))
    except (ssl.SSLError, ValueError):  # text that is not ASCII is a ValueError
        raise ClusterError(
            f"cannot use {access.ca_file} as the CA's certificates: it holds no certificate in PEM"
        ) from None
    except OSError as error:
        raise ClusterError(
            f"cannot use {access.ca_file} as the CA's certificates: {error.strerror}"
        ) from None
    # The CAs of many clusters lack extensions that newer Pythons insist on; chain and host name are verified.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _reason(error: BaseException) -> str:
    """What is at the bottom of an error: trio and TLS put theirs around it."""
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted, {cause.verify_message}"
    if isinstance(cause, BaseExceptionGroup):  # of the attempts at several addresses
        cause = cause.exceptions[0]
    if (
        isinstance(cause, OSError) and cause.strerror
    ):  # trio writes the address into that of a refused connection
        return os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause.strerror
    return " ".join(str(cause).split()) or type(cause).__name__
