"""Connecting, and how each of the kernel's answers is told."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import KernelError
from interceptor.policy.verdict import Permit, Reason, Transport
from interceptor.proxy import application, dial
from interceptor.proxy.refusal import Refusal
from interceptor.workload import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.proxy.mesh import Mesh

LOOPBACK = ip_address("127.0.0.1")


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        yield sock


@pytest.mark.parametrize(("address", "family"), [("10.0.0.1", socket.AF_INET), ("fd00::1", socket.AF_INET6)])
def test_family_and_socket_address_follow_the_endpoint(address: str, family: int) -> None:
    endpoint = Endpoint(ip_address(address), 80)
    assert dial.family_of(endpoint.address) == family
    assert dial.socket_address(endpoint) == (address, 80)


async def test_connected_socket_is_tuned(sock: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        await dial.connect(sock, Endpoint(LOOPBACK, listening.getsockname()[1]), 5)
    options = (socket.TCP_NODELAY, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [1, 180, 180, 9]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    # A reader that pauses for minutes is slow, not gone.
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


async def test_closed_port_is_a_refused_destination(sock: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = Endpoint(LOOPBACK, closed.getsockname()[1])
    with pytest.raises(Refusal, match=f"{endpoint} refused the connection") as caught:
        await dial.connect(sock, endpoint, 5)
    assert caught.value.reason is Reason.DESTINATION_REFUSED


async def test_destination_that_does_not_answer_is_a_timeout(sock: socket.socket) -> None:
    with ExitStack() as stack:
        # A full backlog: the kernel drops further SYNs.
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            waiting.connect_ex(full.getsockname())
        with pytest.raises(Refusal, match=r"did not answer within 0\.2 s") as caught:
            await dial.connect(sock, Endpoint(LOOPBACK, full.getsockname()[1]), 0.2)
    assert caught.value.reason is Reason.DESTINATION_TIMEOUT


class FailingSocket(socket.socket):
    """A socket whose connect(2) fails as a network does that a test cannot have."""

    number = 0

    def connect_ex(self, _: object) -> int:
        return self.number


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENETUNREACH, Reason.DESTINATION_UNREACHABLE),
        (errno.EADDRNOTAVAIL, Reason.RESOURCES_EXHAUSTED),
        (errno.EPERM, Reason.DESTINATION_UNREACHABLE),
        (errno.ETIMEDOUT, Reason.DESTINATION_TIMEOUT),
    ],
)
async def test_other_failures_are_told_apart(number: int, reason: Reason) -> None:
    with FailingSocket() as sock:
        sock.number = number
        with pytest.raises(Refusal) as caught:
            await dial.connect(sock, Endpoint(LOOPBACK, 80), 1)
    assert caught.value.reason is reason


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), KernelError("no netns")])
def test_socket_that_cannot_be_had_is_a_refusal(error: Exception) -> None:
    def opener(_: int) -> socket.socket:
        raise error

    with pytest.raises(Refusal, match="no socket to connect with") as caught:
        dial.open_socket(opener, LOOPBACK)
    assert caught.value.reason is Reason.RESOURCES_EXHAUSTED


def test_ends_of_a_connection_are_endpoints() -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as listening,
        socket.create_connection(listening.getsockname()[:2]) as client,
        listening.accept()[0] as accepted,
    ):
        assert dial.peer_endpoint(accepted) == dial.local_endpoint(client)
        assert str(dial.local_endpoint(accepted)).startswith("[::1]:")


def test_peer_that_has_left_is_a_refusal(sock: socket.socket) -> None:
    with pytest.raises(Refusal, match="the peer left at once"):
        dial.peer_endpoint(sock)


class ForgedSocket(socket.socket):
    """Raw packets may come from port 0, connect(2) may go there."""

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 0)

    getsockname = getpeername


def test_port_0_is_a_refusal() -> None:
    with ForgedSocket() as sock:
        with pytest.raises(Refusal, match="the peer's address: port 0"):
            dial.peer_endpoint(sock)
        with pytest.raises(Refusal, match="the destination: port 0"):
            dial.local_endpoint(sock)


# The last step, to the application.


async def test_application_cannot_be_shown_a_client_of_another_link(mesh: Mesh) -> None:
    """A link-local neighbour: its address means nothing on the workload's loopback."""
    target = Endpoint(ip_address("::1"), 80)
    with pytest.raises(Refusal, match="the application cannot be shown fe80::1 as its client") as caught:
        await application.connect(
            Permit(Transport.PLAINTEXT), target, ip_address("fe80::1"), mesh.destination.context
        )
    assert caught.value.reason is Reason.DESTINATION_UNREACHABLE
