"""What two agents say to each other: whole messages with descriptors, or a line that says what is wrong with the other."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from interceptor.agent.handover_wire import MAX_MESSAGE_BYTES, Wire, WireError, connect, listen
from interceptor.agent.state import AdoptedLock, Lock
from interceptor.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    """Our end, and the other agent's bare socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Wire(ours), theirs


async def test_message_arrives_whole_with_its_descriptors(tmp_path: Path) -> None:
    listener = listen(tmp_path / "handover.sock")
    with listener:
        wire = connect(tmp_path / "handover.sock")
        assert wire is not None
        accepted, _ = listener.accept()
        with accepted, (tmp_path / "file").open("wb") as file:
            other = Wire(accepted)
            assert wire.pid == other.pid == os.getpid()
            await other.send({"give": "locks"}, [file.fileno(), file.fileno()])
            message = await wire.receive(1)
            assert message.content == {"give": "locks"}
            assert [os.path.samestat(os.fstat(fd), os.fstat(file.fileno())) for fd in message.fds] == [
                True,
                True,
            ]
            assert not any(os.get_inheritable(fd) for fd in message.fds)
            message.close_descriptors()
        wire.close()
        wire.close()  # again is no error


def test_way_to_nobody_is_none_and_a_dead_agents_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "handover.sock"
    assert connect(path) is None
    listen(path).close()
    assert connect(path) is None
    with listen(path):
        assert path.stat().st_mode & 0o777 == 0o600
        wire = connect(path)
        assert wire is not None
        wire.close()


@pytest.mark.parametrize(
    "said", [b"no JSON", b"[]", b"\xff", b"[" * 50_000, b'"' + b"x" * MAX_MESSAGE_BYTES + b'"']
)
async def test_what_is_no_message_is_refused_and_its_descriptors_are_closed(
    ends: tuple[Wire, socket.socket], said: bytes
) -> None:
    wire, other = ends
    reading, writing = os.pipe()
    socket.send_fds(other, [said], [writing])
    os.close(writing)
    with pytest.raises(WireError, match="says what no agent of this version says"):
        await wire.receive(1)
    assert os.read(reading, 1) == b""  # nobody has its other end any more
    os.close(reading)


async def test_other_agent_that_is_gone_or_silent_is_told(ends: tuple[Wire, socket.socket]) -> None:
    wire, other = ends
    with pytest.raises(WireError, match=r"does not answer, for 0\.01 s"):
        await wire.receive(0.01)
    other.close()
    with pytest.raises(WireError, match="is gone"):
        await wire.receive(1)
    with pytest.raises(WireError, match="is gone"):
        await wire.send({})


async def test_other_agent_that_does_not_read_is_told(
    ends: tuple[Wire, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interceptor.agent.handover_wire.SEND_SECONDS", 0.05)
    wire, _ = ends

    async def talk() -> None:
        for _ in range(1000):
            await wire.send({"text": "x" * 60_000})

    with pytest.raises(WireError, match="does not read what it is told"):
        await talk()


def test_other_agent_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    uid = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: uid + 1)
    with (
        theirs,
        pytest.raises(StateError, match=f"of uid {uid} may neither hand this node over nor take it over"),
    ):
        Wire(ours)
    assert ours.fileno() == -1


def test_lock_that_is_handed_over_has_no_gap(tmp_path: Path) -> None:
    lock = Lock(tmp_path, "paths.run")
    adopted = AdoptedLock(os.dup(lock.fd), tmp_path)
    for each in (lock, adopted):
        with pytest.raises(StateError, match="another agent"):
            Lock(tmp_path, "paths.run")
        each.release()
    Lock(tmp_path, "paths.run").release()


def test_descriptor_that_is_no_lock_of_the_directory_is_refused_and_closed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = os.open(tmp_path / "other", os.O_RDONLY)
    with pytest.raises(StateError, match="is not that of"):
        AdoptedLock(other, tmp_path)
    lock = Lock(tmp_path, "paths.run")
    not_the_lock = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(StateError, match="is none"):
        AdoptedLock(not_the_lock, tmp_path)
    lock.release()
    for fd in (other, not_the_lock):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
