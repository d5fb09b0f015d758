"""A loopback HTTP port that answers GET /metrics and GET /ready, and nothing else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import h11
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

# A scraper sends one short request; whoever is slower or longer is cut off.
REQUEST_SECONDS = 5.0
MAX_REQUEST_BYTES = 8192
MAX_CLIENTS = 32
MOST_WARNINGS = 50
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TEXT_TYPE = "text/plain; charset=utf-8"


class MetricsServer:
    """Serves what `expose` and `readiness` return; reads nothing from the client but the request line."""

    def __init__(
        self,
        expose: Callable[[], bytes],
        readiness: Callable[[], list[str]],
        warnings: Callable[[], list[str]] = list,
    ) -> None:
        """`readiness` lists what is missing, an empty list means ready; `warnings` what is not missing yet."""
        self._expose = expose
        self._readiness = readiness
        self._warnings = warnings
        self._places = trio.CapacityLimiter(MAX_CLIENTS)

    async def serve(self, listener: trio.SocketListener) -> None:
        """Until cancelled."""
        await trio.serve_listeners(self._handle, [listener])

    async def _handle(self, stream: trio.SocketStream) -> None:
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            await stream.aclose()
            return
        try:
            with trio.move_on_after(REQUEST_SECONDS):
                await self._answer(stream)
        except (trio.BrokenResourceError, h11.ProtocolError) as error:
            log.debug("a client of the metrics port was cut off: %s", error)
        finally:
            self._places.release()
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(MAX_REQUEST_BYTES))
        if not isinstance(event, h11.Request):
            return
        status, content_type, body = self._respond(event)
        headers = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        head = connection.send(h11.Response(status_code=status, headers=headers))
        content = b"" if event.method == b"HEAD" else connection.send(h11.Data(data=body)) or b""
        await stream.send_all((head or b"") + content)

    def _respond(self, request: h11.Request) -> tuple[int, str, bytes]:
        if request.method not in (b"GET", b"HEAD"):
            return 405, _TEXT_TYPE, b"only GET is answered here\n"
        if request.target == b"/metrics":
            return 200, _METRICS_TYPE, self._expose()
        if request.target == b"/alive":
            return 200, _TEXT_TYPE, b"alive\n"
        if request.target == b"/ready":
            missing = self._readiness()
            lines = [
                *(missing or ["ready"]),
                *(f"warning: {line}" for line in self._warnings()[:MOST_WARNINGS]),
            ]
            text = "".join(f"{line}\n" for line in lines)
            return (503 if missing else 200), _TEXT_TYPE, text.encode()
        return 404, _TEXT_TYPE, b"try /metrics, /ready or /alive\n"
