"""Every way in which a program can connect is captured, and what stays inside one workload is not."""

from __future__ import annotations

import errno
import select
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.process import wait_until
from tests.harness.records import assert_mutual_tls
from tests.harness.tcp import (
    FAMILIES,
    connected,
    disconnect,
    endpoint,
    family_id,
    receive_exactly,
)

if TYPE_CHECKING:
    from tests.harness.namespace import Workload
    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=family_id)

MARKER = b"marker of the payload: 7f3a9c"
TCP_FASTOPEN_CONNECT = 30
IPPROTO_MPTCP = 262
MPTCP_ENABLED = Path("/proc/sys/net/mptcp/enabled")


@each_family
def test_nonblocking_connect_succeeds_as_usual(
    shared_client: Workload, shared_server: Workload, family: int
) -> None:
    with shared_server.listen(family) as listener, shared_client.open_socket(family) as near:
        near.setblocking(False)
        assert near.connect_ex(listener.getsockname()[:2]) in (0, errno.EINPROGRESS)
        assert select.select([], [near], [], 10)[1]
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert near.getpeername()[:2] == listener.getsockname()[:2]
        far, _ = listener.accept()
        with far:
            near.send(MARKER)
            far.settimeout(10)
            assert far.recv(100) == MARKER


def test_mapped_ipv4_address_on_an_ipv6_socket_is_captured_like_ipv4(
    shared_node: Node, shared_client: Workload, shared_server: Workload
) -> None:
    since = shared_node.mark()
    wire = shared_node.wire(shared_client, shared_server, marker=MARKER)
    with (
        wire,
        shared_server.listen(socket.AF_INET, 8081) as listener,
        shared_client.open_socket(socket.AF_INET6) as near,
    ):
        near.connect((f"::ffff:{shared_server.ipv4}", 8081))
        assert near.getpeername()[:2] == (f"::ffff:{shared_server.ipv4}", 8081)
        assert near.getsockname()[0] == f"::ffff:{shared_client.ipv4}"
        near.sendall(MARKER)
        far, peer = listener.accept()
        with far:
            assert peer[0] == shared_client.ipv4
            assert receive_exactly(far, len(MARKER)) == MARKER
    pair = shared_node.wait_for_pair(since=since)
    assert_mutual_tls(pair, shared_client, shared_server)
    assert pair[0]["destination_address"] == f"{shared_server.ipv4}:8081"


@each_family
@pytest.mark.parametrize("way", ["MSG_FASTOPEN", "TCP_FASTOPEN_CONNECT"])
def test_data_sent_with_the_connect_is_captured_too(
    shared_node: Node, shared_client: Workload, shared_server: Workload, family: int, way: str
) -> None:
    wire = shared_node.wire(shared_client, shared_server, marker=MARKER)
    with shared_server.listen(family) as listener, shared_client.open_socket(family) as near, wire:
        destination = listener.getsockname()[:2]
        if way == "MSG_FASTOPEN":
            near.setblocking(True)  # otherwise the data would be refused until it is connected
            near.sendto(MARKER, socket.MSG_FASTOPEN, destination)
        else:
            near.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            near.connect(destination)
            near.sendall(MARKER)
        far, peer = listener.accept()
        with far:
            assert peer[0] == shared_client.address(family)
            far.settimeout(10)
            assert receive_exactly(far, len(MARKER)) == MARKER
        source = endpoint(near)
    assert_mutual_tls(
        shared_node.wait_for_pair(lambda record: record["source_address"] == source),
        shared_client,
        shared_server,
    )


@pytest.mark.skipif(not MPTCP_ENABLED.exists(), reason="this kernel has no Multipath TCP")
def test_multipath_socket_is_refused_so_that_programs_fall_back(shared_client: Workload) -> None:
    with pytest.raises(OSError, match="Protocol not available"):
        shared_client.open_socket(socket.AF_INET, proto=IPPROTO_MPTCP)
    # A workload that may change sysctls gets no further: the kernel's hook is in the way then.
    switch = f"echo $0 > {MPTCP_ENABLED}"
    shared_client.run("sh", "-c", switch, "1").check()
    try:
        for family in FAMILIES:
            with pytest.raises(PermissionError):
                shared_client.open_socket(family, proto=IPPROTO_MPTCP)
    finally:
        shared_client.run("sh", "-c", switch, "0").check()


@each_family
def test_socket_bound_by_the_application_keeps_its_port(
    shared_node: Node, shared_client: Workload, shared_server: Workload, family: int
) -> None:
    with shared_server.listen(family) as listener, shared_client.open_socket(family) as near:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        near.bind((shared_client.address(family), 40404))
        near.connect(listener.getsockname()[:2])
        assert near.getsockname()[:2] == (shared_client.address(family), 40404)
        far, peer = listener.accept()
        far.close()
        assert peer[0] == shared_client.address(family)
        source = endpoint(near)
    shared_node.wait_for_pair(lambda record: record["source_address"] == source)


@each_family
def test_socket_whose_port_alone_the_application_bound_has_the_workloads_address(
    shared_node: Node, shared_client: Workload, shared_server: Workload, family: int
) -> None:
    with shared_server.listen(family) as listener, shared_client.open_socket(family) as near:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        near.bind(("", 40405))
        near.connect(listener.getsockname()[:2])
        assert near.getsockname()[:2] == (shared_client.address(family), 40405)
        far, peer = listener.accept()
        far.close()
        assert peer[0] == shared_client.address(family)
        source = endpoint(near)
    shared_node.wait_for_pair(lambda record: record["source_address"] == source)


def _connect_and_read(sock: socket.socket, destination: tuple[str, int]) -> bytes:
    """The proxy accepts before it tries: a reset comes before connect(2) returns or after it, as threads are scheduled."""
    sock.connect(destination)
    return sock.recv(1)


@each_family
def test_socket_connected_again_after_a_failure_reaches_the_new_destination(
    shared_client: Workload, shared_server: Workload, family: int
) -> None:
    with shared_server.listen(family) as listener, shared_client.open_socket(family) as near:
        with pytest.raises(ConnectionResetError):
            _connect_and_read(near, (shared_server.address(family), 9))
        disconnect(near)
        near.connect(listener.getsockname()[:2])
        assert near.getpeername()[:2] == listener.getsockname()[:2]
        far, _ = listener.accept()
        with far:
            near.sendall(MARKER)
            far.settimeout(10)
            assert receive_exactly(far, len(MARKER)) == MARKER


@each_family
def test_socket_connected_again_to_loopback_shows_its_new_peer(
    shared_client: Workload, shared_server: Workload, family: int
) -> None:
    loopback = "127.0.0.1" if family == socket.AF_INET else "::1"
    with shared_client.open_socket(family) as local, shared_client.open_socket(family) as near:
        local.bind((loopback, 0))
        local.listen()
        with shared_server.listen(family) as listener:
            near.connect(listener.getsockname()[:2])
            listener.accept()[0].close()
        disconnect(near)
        near.connect(local.getsockname()[:2])
        assert near.getpeername()[:2] == local.getsockname()[:2]
        local.accept()[0].close()


def _talks_to_itself(workload: Workload, address: str) -> bool:
    with workload.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.settimeout(1)
        listener.bind((address, 0))
        listener.listen()
        try:
            with workload.connect((address, listener.getsockname()[1])) as near:
                near.settimeout(1)
                near.sendall(MARKER)
                with listener.accept()[0] as far:
                    return far.recv(100) == MARKER
        except OSError:
            return False


def test_connections_inside_one_workload_are_untouched(shared_node: Node) -> None:
    with shared_node.workload_for_a_while("alone") as alone:
        second_ipv4, second_ipv6 = "198.18.255.1", "fd5e:ffff::1"
        alone.add_address(f"{second_ipv4}/32")
        alone.add_address(f"{second_ipv6}/128")
        wait_until(
            lambda: _talks_to_itself(alone, second_ipv4) and _talks_to_itself(alone, second_ipv6),
            "the agent has seen the new addresses",
        )
        since, before = shared_node.mark(), shared_node.status()["kernel_counters"]
        for address in (
            "127.0.0.1",
            "127.1.2.3",
            "::1",
            alone.ipv4,
            alone.ipv6,
            second_ipv4,
            second_ipv6,
        ):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            any_address = "::" if family == socket.AF_INET6 else "0.0.0.0"
            with alone.open_socket(family) as listener:
                listener.bind((any_address, 0))
                listener.listen()
                destination = (address, listener.getsockname()[1])
                with alone.connect(destination) as near, listener.accept()[0] as far:
                    assert near.getpeername()[:2] == destination
                    # The very same connection, without anybody in between.
                    assert far.getpeername()[:2] == near.getsockname()[:2]
                    near.sendall(MARKER)
                    assert far.recv(100) == MARKER
        assert shared_node.status()["kernel_counters"] == before
        assert shared_node.records(since) == []


@each_family
def test_workload_with_the_address_of_one_that_ended_is_reached_at_once(
    shared_node: Node, shared_client: Workload, family: int
) -> None:
    addresses = set()
    for name in ("first", "second"):
        with shared_node.workload_for_a_while(name) as workload:
            addresses.add(workload.address(family))
            started = time.monotonic()
            with connected(shared_client, workload, family) as (near, far):
                near.sendall(MARKER)
                assert receive_exactly(far, len(MARKER)) == MARKER
            assert time.monotonic() - started < 0.9, "its neighbours looked for the one that ended"
    assert len(addresses) == 1
