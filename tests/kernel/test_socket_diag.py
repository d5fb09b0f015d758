"""Connections that are older than the enrolment come to an end; everything else lives on."""

from __future__ import annotations

import socket
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import KernelError
from interceptor.kernel import netlink, socket_diag
from interceptor.kernel.abi import RETURN_PATH_MARK
from interceptor.kernel.socket_diag import begun_outside, count_connecting, destroy, destroy_established

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.kernel.netns import NetworkNamespace

    Maker = Callable[[str], NetworkNamespace]
    Listen = Callable[[NetworkNamespace, str, int], socket.socket]
    Connect = Callable[[NetworkNamespace, socket.socket], tuple[socket.socket, socket.socket]]

pytestmark = pytest.mark.netns

NETWORKS = [ip_network("10.99.0.0/16"), ip_network("fd99::/64")]
GATEWAYS = (ip_interface("10.99.0.1/16"), ip_interface("fd99::1/64"))


@pytest.fixture
def pods(host: NetworkNamespace, make_namespace: Maker) -> tuple[NetworkNamespace, NetworkNamespace]:
    """Two namespaces on one bridge, 10.99.0.2 and 10.99.0.3."""
    netlink.ensure_bridge("itest-br0", ip_interface("10.99.0.1/16"), ip_interface("fd99::1/64"))
    made = make_namespace("enrolled"), make_namespace("other")
    for number, namespace in enumerate(made, start=2):
        interfaces = [ip_interface(f"10.99.0.{number}/16"), ip_interface(f"fd99::{number}/64")]
        gateways = [gateway.ip for gateway in GATEWAYS]
        netlink.attach_to_bridge("itest-br0", namespace, f"itest-v{number}", interfaces, gateways)
    return made


def is_alive(sender: socket.socket, receiver: socket.socket) -> bool:
    try:
        sender.sendall(b"x")
        return receiver.recv(1) == b"x"
    except OSError:
        return False


@pytest.mark.parametrize("address", ["10.99.0.2", "fd99::2"])
def test_connection_into_the_namespace_is_destroyed_at_both_ends(
    pods: tuple[NetworkNamespace, NetworkNamespace], listen: Listen, connect: Connect, address: str
) -> None:
    enrolled, other = pods
    listening = listen(enrolled, address, 80)
    sender, receiver = connect(other, listening)
    assert destroy_established(enrolled, NETWORKS) == 1
    with pytest.raises(ConnectionAbortedError):
        receiver.recv(1)
    with pytest.raises(ConnectionResetError):
        sender.recv(1)
    assert destroy_established(enrolled, NETWORKS) == 0
    assert is_alive(*connect(other, listening))


@pytest.mark.parametrize("address", ["10.99.0.3", "fd99::3"])
def test_connection_out_of_the_namespace_is_destroyed(
    pods: tuple[NetworkNamespace, NetworkNamespace], listen: Listen, connect: Connect, address: str
) -> None:
    enrolled, other = pods
    ends = [connect(enrolled, listen(other, address, 8000 + number)) for number in range(20)]
    assert destroy_established(enrolled, NETWORKS) == 20
    assert not any(is_alive(*pair) for pair in ends)


def test_ipv4_connection_of_an_ipv6_socket_is_destroyed(
    pods: tuple[NetworkNamespace, NetworkNamespace], listen: Listen
) -> None:
    enrolled, other = pods
    listen(other, "10.99.0.3", 80)
    with enrolled.open_socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.connect(("::ffff:10.99.0.3", 80))
        assert destroy_established(enrolled, NETWORKS) == 1
        with pytest.raises(ConnectionAbortedError):
            sock.recv(1)


def test_connection_attempt_under_way_is_destroyed(pods: tuple[NetworkNamespace, NetworkNamespace]) -> None:
    enrolled, _ = pods
    with enrolled.open_socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        assert sock.connect_ex(("10.99.0.200", 80)) == 115  # in progress: nobody has that address
        assert destroy_established(enrolled, NETWORKS) == 1


def test_connections_that_the_mesh_does_not_concern_live_on(
    pods: tuple[NetworkNamespace, NetworkNamespace], listen: Listen, connect: Connect
) -> None:
    enrolled, other = pods
    alive = [
        connect(enrolled, listen(enrolled, "127.0.0.1", 80)),
        connect(enrolled, listen(enrolled, "::1", 80)),
        connect(enrolled, listen(enrolled, "10.99.0.2", 80)),  # to itself
        connect(enrolled, listen(enrolled, "fd99::2", 80)),
        connect(other, listen(other, "10.99.0.3", 80)),  # another namespace
    ]
    assert destroy_established(enrolled, [*NETWORKS, ip_network("127.0.0.0/8")]) == 0
    outside = connect(enrolled, listen(other, "10.99.0.3", 81))
    assert destroy_established(enrolled, [ip_network("10.98.0.0/16"), ip_network("fd99::/64")]) == 0
    assert all(is_alive(*pair) for pair in [*alive, outside])


def test_closed_namespace_is_refused(make_namespace: Maker) -> None:
    namespace = make_namespace("a")
    namespace.close()
    with pytest.raises(KernelError, match="cannot enter"):
        destroy_established(namespace, NETWORKS)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connections_that_wait_for_an_answer_on_loopback_are_counted(
    make_namespace: Maker, listen: Listen, address: str
) -> None:
    """A backlog that is full: what comes then waits for a place."""
    namespace = make_namespace("waiting")
    listening = listen(namespace, address, 15001)
    listening.listen(0)
    waiting = [namespace.open_socket(listening.family, socket.SOCK_STREAM) for _ in range(3)]
    for sock in waiting:
        sock.connect_ex((address, 15001))
    assert count_connecting(namespace, 15001) == 2
    assert count_connecting(namespace, 15002) == 0
    for sock in waiting:
        sock.close()
    assert count_connecting(namespace, 15001) == 0


MESH = [ip_network("10.99.0.2/32"), ip_network("fd99::2/128")]  # whatever has another address is outside


@pytest.fixture
def _of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the sockets of this process were another's; those of the agent are the proxy's."""
    monkeypatch.setattr(socket_diag, "_own_inodes", set)


@pytest.mark.usefixtures("_of_others")
@pytest.mark.parametrize("address", ["10.99.0.3", "fd99::3"])
def test_connection_that_was_begun_to_the_outside_is_found_and_destroyed(
    pods: tuple[NetworkNamespace, NetworkNamespace], listen: Listen, connect: Connect, address: str
) -> None:
    enrolled, other = pods
    sender, receiver = connect(enrolled, listen(other, address, 80))
    (found,) = begun_outside(enrolled, MESH)
    assert (str(found.local), found.local_port) == sender.getsockname()[:2]
    assert (str(found.remote), found.remote_port) == (address, 80)
    assert found.inode
    assert destroy(enrolled, [found]) == [found]
    assert destroy(enrolled, [found]) == []
    assert not is_alive(sender, receiver)
    assert begun_outside(enrolled, MESH) == []


@pytest.mark.usefixtures("_of_others")
def test_what_arrived_or_stays_inside_was_not_begun_to_the_outside(
    pods: tuple[NetworkNamespace, NetworkNamespace], listen: Listen, connect: Connect
) -> None:
    enrolled, other = pods
    connect(other, listen(enrolled, "10.99.0.2", 81))
    connect(enrolled, listen(enrolled, "127.0.0.1", 82))
    connect(enrolled, listen(other, "10.99.0.3", 83))
    assert begun_outside(enrolled, [*MESH, ip_network("10.99.0.0/16")]) == []
    marked = listen(enrolled, "10.99.0.2", 84)
    marked.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, RETURN_PATH_MARK)
    connect(other, marked)
    marked.close()  # nobody listens on the port any more
    assert [found.remote_port for found in begun_outside(enrolled, MESH)] == [83]


def test_what_the_proxy_has_open_outside_is_left_out(
    pods: tuple[NetworkNamespace, NetworkNamespace], listen: Listen, connect: Connect
) -> None:
    enrolled, other = pods
    connect(enrolled, listen(other, "10.99.0.3", 80))
    assert begun_outside(enrolled, MESH) == []


def test_closed_namespace_has_nothing_to_find_or_destroy(make_namespace: Maker) -> None:
    namespace = make_namespace("a")
    namespace.close()
    with pytest.raises(KernelError, match="cannot enter"):
        begun_outside(namespace, MESH)
    with pytest.raises(KernelError, match="cannot enter"):
        destroy(namespace, [])
