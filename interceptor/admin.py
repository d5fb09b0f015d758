"""The admin socket: a Unix socket of mode 0600, one JSON object per line in, one per line out.

A request is `{"command": NAME, ...}`; an answer is `{"ok": RESULT}` or
`{"error": MESSAGE, "exit_status": N}`.  Nothing that changes state listens on
TCP; who may open the socket, and is root by its peer credentials, may ask.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import trio

from interceptor.errors import AgentError, InterceptorError, UsageError, quoted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    Command = Callable[[Mapping[str, Any]], Awaitable[object]]

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # 10,000 connections are 8 MB
REQUEST_SECONDS = 10.0
ANSWER_SECONDS = 60.0
MAX_CLIENTS = 64


class AdminServer:
    """Answers requests with the commands that the agent gives it."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands
        self._places = trio.CapacityLimiter(MAX_CLIENTS)

    async def serve(self, listener: trio.SocketListener) -> None:
        """Until cancelled."""
        await trio.serve_listeners(self._handle, [listener])

    async def _handle(self, stream: trio.SocketStream) -> None:
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            await trio.aclose_forcefully(stream)
            return
        try:
            if _peer_uid(stream.socket) == os.geteuid():
                answer = await self._answer(stream)
                await stream.send_all(json.dumps(answer).encode() + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("a client of the admin socket left before its answer")
        finally:
            self._places.release()
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream) -> Mapping[str, object]:
        try:
            request = _parse(await _receive_line(stream))
            return {"ok": await self._find(request)(request)}
        except InterceptorError as error:
            return {"error": str(error), "exit_status": error.exit_status}
        except Exception as error:
            # A fault of ours in one request; the data plane goes on.
            log.exception("an admin request failed")
            return {
                "error": f"internal error ({type(error).__name__}): see the agent's log",
                "exit_status": 1,
            }

    def _find(self, request: Mapping[str, Any]) -> Command:
        name = str(request.get("command"))
        if name not in self._commands:
            raise UsageError(f"the agent knows no command {quoted(name)}: is it of another version?")
        return self._commands[name]


def _peer_uid(sock: trio.socket.SocketType) -> int:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("=iII", credentials)[1])


async def _receive_line(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    with trio.move_on_after(REQUEST_SECONDS):
        while not received.endswith(b"\n"):
            data = await stream.receive_some(MAX_REQUEST_BYTES)
            received += data
            if not data or len(received) > MAX_REQUEST_BYTES:
                break
    if not received.endswith(b"\n"):
        raise UsageError(f"a request is one line of JSON of at most {MAX_REQUEST_BYTES} bytes")
    return bytes(received)


def _parse(line: bytes) -> Mapping[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError("the request is not JSON") from error
    if not isinstance(request, dict):
        raise UsageError("the request is not a JSON object")
    return request


def open_listener(path: Path) -> trio.SocketListener:
    """Listen on a Unix socket that only its owner can open; a dead agent's socket is replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        previous = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(previous)
        sock.listen(MAX_CLIENTS)
    except OSError as error:
        sock.close()
        raise AgentError(f"cannot listen on the admin socket {path}: {error.strerror}") from error
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def ask(path: Path, command: str, *, seconds: float = ANSWER_SECONDS, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    """Send one request and return its result; AgentError when no agent answers, or what it answered."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(seconds)
        try:
            sock.connect(str(path))
            sock.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            answer = _receive_all(sock)
        except FileNotFoundError as error:
            raise AgentError(
                f"no agent is running ({path} does not exist): start it with 'interceptor up'"
            ) from error
        except ConnectionRefusedError as error:
            raise AgentError(
                f"the agent has died (nobody listens on {path}): start it again with 'interceptor up'"
            ) from error
        except PermissionError as error:
            raise AgentError(f"{path} may be opened by root only: use sudo") from error
        except TimeoutError as error:
            raise AgentError(f"the agent did not answer within {seconds:g} s: see its log") from error
        except OSError as error:
            raise AgentError(f"the agent cannot be reached at {path}: {error.strerror}") from error
    if not answer:
        raise AgentError("the agent closed the connection without an answer: see its log")
    result = json.loads(answer)
    if "error" in result:
        raise AnsweredError(str(result["error"]), int(result.get("exit_status", 1)))
    return result["ok"]


class AnsweredError(AgentError):
    """An error that the agent answered with, with the exit status that it deserves."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status  # type: ignore[misc] # a class constant in all the others


def _receive_all(sock: socket.socket) -> bytes:
    received = bytearray()
    while data := sock.recv(1 << 20):
        received += data
        if len(received) > MAX_ANSWER_BYTES:
            raise AgentError("the agent's answer is too long")
    return bytes(received)
