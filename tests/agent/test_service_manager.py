"""What systemd is told: the datagrams of sd_notify(3)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from interceptor.agent.service_manager import READY, STOPPING, tell_service_manager

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness.node import Node


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """The end of systemd."""
    path = tmp_path / "notify"
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(path))
    receiver.settimeout(5)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    return receiver


def test_service_manager_at_a_path_is_told(manager: socket.socket) -> None:
    with manager:
        tell_service_manager(READY)
        assert manager.recv(100) == b"READY=1"


def test_service_manager_at_an_abstract_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("")  # the kernel chooses an abstract address, unix(7)
        receiver.settimeout(5)
        address = receiver.getsockname()
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + address[1:].decode())
        tell_service_manager(STOPPING)
        assert receiver.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "vsock:2:1234"])
def test_service_manager_that_is_not_there_is_not_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    tell_service_manager(READY)


def test_service_manager_that_is_gone_is_a_warning(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    manager.close()
    tell_service_manager(READY)
    assert caplog.messages == ["the service manager cannot be told READY=1 (Connection refused)"]


@pytest.mark.bpf
@pytest.mark.netns
@pytest.mark.timeout(90)
def test_agent_tells_when_it_is_ready_and_when_it_stops(
    manager: socket.socket, make_node: Callable[..., Node]
) -> None:
    with manager:
        node = make_node()  # 'up' returns when the agent is ready, and the agent has our environment
        assert manager.recv(100) == b"READY=1"
        node.down().check()
        assert manager.recv(100) == b"STOPPING=1"
