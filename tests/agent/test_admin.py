"""The admin socket's protocol: one line in, one line out, whatever comes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from interceptor import admin
from interceptor.admin import MAX_CLIENTS, REQUEST_SECONDS, AdminServer, ask, open_listener
from interceptor.errors import AgentError, EnrolmentError, UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from trio.testing import MockClock


async def _echo(request: Mapping[str, Any]) -> object:
    return {"asked": request.get("what")}


async def _refuse(_: Mapping[str, Any]) -> object:
    raise EnrolmentError("it cannot be done, do something else")


async def _misuse(_: Mapping[str, Any]) -> object:
    raise UsageError("that is not how")


async def _break(_: Mapping[str, Any]) -> object:
    raise ZeroDivisionError("a fault of ours")


COMMANDS = {"echo": _echo, "refuse": _refuse, "misuse": _misuse, "break": _break}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """A server on a socket."""
    path = tmp_path / "admin.sock"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(AdminServer(COMMANDS).serve, open_listener(path))
        yield path
        nursery.cancel_scope.cancel()


async def _ask(path: Path, command: str, **arguments: object) -> Any:
    return await trio.to_thread.run_sync(lambda: ask(path, command, **arguments))


async def _talk(path: Path, data: bytes) -> bytes:
    stream = await trio.open_unix_socket(path)
    async with stream:
        await stream.send_all(data)
        received = b""
        with contextlib.suppress(trio.BrokenResourceError):  # cut off with our request unread
            while chunk := await stream.receive_some(65536):
                received += chunk
        return received


async def test_admin_answers_a_request(path: Path) -> None:
    assert (await trio.Path(path).stat()).st_mode & 0o777 == 0o600
    assert await _ask(path, "echo", what=["ä", 1, None]) == {"asked": ["ä", 1, None]}


async def test_admin_passes_the_message_and_exit_status_of_an_error_on(path: Path) -> None:
    with pytest.raises(AgentError, match=r"^it cannot be done, do something else$") as caught:
        await _ask(path, "refuse")
    assert caught.value.exit_status == 1
    with pytest.raises(AgentError, match=r"^that is not how$") as caught:
        await _ask(path, "misuse")
    assert caught.value.exit_status == 2


async def test_admin_survives_a_fault_in_a_command(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AgentError, match=r"internal error \(ZeroDivisionError\): see the agent's log"):
        await _ask(path, "break")
    assert "a fault of ours" in caplog.text
    assert await _ask(path, "echo", what=1)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\n", "not JSON"),
        (b"\xff\n", "not JSON"),
        (b"7\n", "not a JSON object"),
        (b'{"command": "no such"}\n', "knows no command 'no such'"),
        (b'{"command": null}\n', "knows no command"),
        (b"[" * 5000 + b"\n", "not JSON"),
        (b"x" * (admin.MAX_REQUEST_BYTES + 1), "one line of JSON of at most"),
    ],
)
async def test_admin_answers_nonsense_with_an_error(path: Path, data: bytes, error: str) -> None:
    answer = json.loads(await _talk(path, data))
    assert error in answer["error"]
    assert answer["exit_status"] == 2


async def test_admin_cuts_off_who_does_not_finish_a_request(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    ours, theirs = trio.socket.socketpair()
    server = AdminServer(COMMANDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._handle, trio.SocketStream(theirs))
        await ours.send(b'{"command"')
        started = trio.current_time()
        answer = await ours.recv(65536)
        assert b"one line of JSON" in answer
        assert trio.current_time() - started == pytest.approx(REQUEST_SECONDS, abs=1)
    ours.close()


async def test_admin_serves_so_many_clients_and_no_more(path: Path) -> None:
    streams = [await trio.open_unix_socket(path) for _ in range(MAX_CLIENTS)]
    await trio.testing.wait_all_tasks_blocked()
    extra = await trio.open_unix_socket(path)
    assert await extra.receive_some(1) == b""
    for stream in (*streams, extra):
        await stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert await _ask(path, "echo", what=2) == {"asked": 2}


async def test_admin_asks_who_is_at_the_other_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_peer_uid", lambda _: os.geteuid() + 1)
    assert await _talk(path, b'{"command": "echo"}\n') == b""


def test_ask_without_an_agent_says_how_to_start_one(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with pytest.raises(AgentError, match=r"no agent is running .* start it with 'interceptor up'"):
        ask(path, "status")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    with pytest.raises(AgentError, match=r"the agent has died .* start it again"):
        ask(path, "status")


def test_ask_of_an_agent_that_hangs_ends_after_a_while(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        with pytest.raises(AgentError, match=r"did not answer within 0.1 s"):
            ask(path, "status", seconds=0.1)


async def test_listener_replaces_a_dead_agents_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.touch()
    listener = open_listener(path)
    await listener.aclose()
    with pytest.raises(AgentError, match="cannot listen on the admin socket"):
        open_listener(tmp_path / "no" / "admin.sock")
