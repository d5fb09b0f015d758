"""Where the mesh ends: programs outside of it, modes, and addresses that nobody has yet."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.harness.node import running_node
from tests.harness.records import assert_mutual_tls
from tests.harness.tcp import FAMILIES, connected, endpoint, family_id, receive_all, receive_exactly, sending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.namespace import Namespace, Workload
    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=family_id)

MARKER = b"marker of the payload: e1b04f"
WAIT_SECONDS = 2.0  # limits.unknownDestinationWait when nothing else is said


@pytest.fixture(scope="module")
def outsider(shared_node: Node, shared_client: Workload, shared_server: Workload) -> Iterator[Namespace]:
    """A namespace outside of the mesh's CIDRs, which the shared workloads can reach, and it them."""
    namespace = shared_node.plain_namespace("outsider", inside=False)
    for workload in (shared_client, shared_server):
        shared_node.reach(workload)
    yield namespace
    namespace.close()


@pytest.fixture(scope="module")
def stranger(shared_node: Node) -> Iterator[Namespace]:
    """A namespace with addresses inside of the mesh's CIDRs that is not enrolled."""
    namespace = shared_node.plain_namespace("stranger")
    yield namespace
    namespace.close()


class Trio:
    """Two workloads and a program outside of the mesh, on a node of its own."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.client, self.server = node.workload("client"), node.workload("server")
        self.outsider = node.plain_namespace("outsider", inside=False)
        for workload in (self.client, self.server):
            node.reach(workload)


@pytest.fixture(scope="module")
def permissive() -> Iterator[Trio]:
    with running_node(mode="PERMISSIVE") as node:
        yield Trio(node)


@pytest.fixture(scope="module")
def disabled() -> Iterator[Trio]:
    with running_node(mode="DISABLE") as node:
        yield Trio(node)


def exchange(near: socket.socket, far: socket.socket) -> None:
    """The marker there and back, and an orderly end from both."""
    near.sendall(MARKER)
    assert receive_exactly(far, len(MARKER)) == MARKER
    with sending(far, MARKER * 1000, then=lambda: far.shutdown(socket.SHUT_WR)):
        assert receive_all(near) == MARKER * 1000


def converse(near: socket.socket, destination: tuple[str, int]) -> None:
    """Connect, send and read: whichever is the first to fail."""
    near.connect(destination)
    near.sendall(MARKER)
    near.recv(1)


@each_family
def test_workload_reaches_a_program_outside_as_if_there_were_no_mesh(
    shared_node: Node, shared_client: Workload, outsider: Namespace, family: int
) -> None:
    since, before = shared_node.mark(), shared_node.status()["kernel_counters"]
    wire = shared_node.wire(shared_client, outsider, marker=MARKER, expect="plaintext")
    with wire, connected(shared_client, outsider, family) as (near, far):
        # The very same connection: not only the addresses, also the ports are each other's.
        assert far.getpeername()[:2] == near.getsockname()[:2]
        assert near.getpeername()[:2] == far.getsockname()[:2]
        assert near.getsockname()[0] == shared_client.address(family)
        exchange(near, far)
    assert shared_node.status()["kernel_counters"] == before
    assert shared_node.records(since) == []


@each_family
def test_port_outside_that_nobody_listens_on_refuses_the_connect_itself(
    shared_client: Workload, outsider: Namespace, family: int
) -> None:
    with pytest.raises(ConnectionRefusedError):
        shared_client.connect((outsider.address(family), 9))


@each_family
def test_socket_refused_outside_can_then_connect_into_the_mesh(
    shared_client: Workload, shared_server: Workload, outsider: Namespace, family: int
) -> None:
    with shared_server.listen(family) as listener, shared_client.open_socket(family) as near:
        near.setblocking(True)  # a failed non-blocking connect(2) would be told a second time
        with pytest.raises(ConnectionRefusedError):
            near.connect((outsider.address(family), 9))
        near.connect(listener.getsockname()[:2])
        assert near.getpeername()[:2] == listener.getsockname()[:2]
        far, peer = listener.accept()
        with far:
            assert peer[0] == shared_client.address(family)
            near.sendall(MARKER)
            far.settimeout(10)
            assert receive_exactly(far, len(MARKER)) == MARKER


@each_family
@pytest.mark.parametrize("who", ["outsider", "stranger"])
def test_program_outside_the_mesh_is_reset_in_strict_mode_and_the_record_says_why(
    shared_node: Node, shared_server: Workload, request: pytest.FixtureRequest, family: int, who: str
) -> None:
    program: Namespace = request.getfixturevalue(who)
    since = shared_node.mark()
    with shared_server.listen(family, 8083) as listener, program.open_socket(family) as near:
        near.bind((program.address(family), 0))
        source, destination = endpoint(near), endpoint(listener)
        with pytest.raises(ConnectionResetError):
            converse(near, listener.getsockname()[:2])
        record = shared_node.wait_for_record(lambda record: record["source_address"] == source, since=since)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()  # the application never heard of it
    assert (record["direction"], record["verdict"]) == ("inbound", "denial")
    assert record["reason"] == "plaintext_refused"
    assert record["source_identity"] is None
    assert record["destination_workload"] == shared_server.name
    assert record["destination_address"] == destination
    assert record["close_kind"] == "reset"


@each_family
def test_program_outside_the_mesh_is_served_in_permissive_mode_without_an_identity(
    permissive: Trio, family: int
) -> None:
    node = permissive.node
    since = node.mark()
    with connected(permissive.outsider, permissive.server, family) as (near, far):
        assert far.getpeername()[0] == permissive.outsider.address(family)
        source = endpoint(near)
        exchange(near, far)
    record = node.wait_for_record(lambda record: record["source_address"] == source, since=since)
    assert (record["direction"], record["verdict"]) == ("inbound", "permit")
    assert record["connection_security_policy"] == "none"
    assert record["source_identity"] is None
    assert record["source_workload"] is None
    assert record["tls_version"] is None
    assert (record["bytes_sent"], record["bytes_received"]) == (len(MARKER), 1000 * len(MARKER))


@each_family
def test_workloads_speak_mutual_tls_in_permissive_mode_too(permissive: Trio, family: int) -> None:
    node = permissive.node
    wire = node.wire(permissive.client, permissive.server, marker=MARKER)
    with wire, connected(permissive.client, permissive.server, family) as (near, far):
        source = endpoint(near)
        exchange(near, far)
    pair = node.wait_for_pair(lambda record: record["source_address"] == source)
    assert_mutual_tls(pair, permissive.client, permissive.server)


@each_family
def test_workloads_speak_plaintext_in_disable_mode_and_the_records_say_so(
    disabled: Trio, family: int
) -> None:
    node = disabled.node
    since = node.mark()
    wire = node.wire(disabled.client, disabled.server, marker=MARKER, expect="plaintext")
    with wire, connected(disabled.client, disabled.server, family) as (near, far):
        assert far.getpeername()[0] == disabled.client.address(family)
        exchange(near, far)
    records = node.wait_for_records(lambda _: True, 2, since=since)
    assert {record["direction"] for record in records} == {"outbound", "inbound"}
    for record in records:
        assert record["verdict"] == "permit"
        assert record["connection_security_policy"] == "none"
        assert record["tls_version"] is None
    inbound = next(record for record in records if record["direction"] == "inbound")
    assert inbound["source_identity"] is None


@each_family
def test_program_outside_the_mesh_is_served_in_disable_mode(disabled: Trio, family: int) -> None:
    with connected(disabled.outsider, disabled.server, family) as (near, far):
        assert far.getpeername()[0] == disabled.outsider.address(family)
        exchange(near, far)


def test_unknown_destination_inside_the_mesh_is_refused_after_a_while_and_never_dialled(
    shared_node: Node, shared_client: Workload, stranger: Namespace
) -> None:
    since = shared_node.mark()
    started = time.monotonic()
    with (
        shared_node.wire(shared_client, stranger, marker=MARKER, expect="nothing"),
        stranger.listen(socket.AF_INET, 8084),
        stranger.listen(socket.AF_INET6, 8084),
        shared_client.connect((stranger.ipv4, 8084)) as ipv4,
        shared_client.connect((stranger.ipv6, 8084)) as ipv6,
    ):
        for near in (ipv4, ipv6):
            near.sendall(MARKER)
        for near in (ipv4, ipv6):
            with pytest.raises(ConnectionResetError):
                near.recv(1)
    assert WAIT_SECONDS <= time.monotonic() - started < WAIT_SECONDS + 5
    records = shared_node.wait_for_records(lambda record: record["reason"], 2, since=since)
    assert {record["destination_address"] for record in records} == {
        f"{stranger.ipv4}:8084",
        f"[{stranger.ipv6}]:8084",
    }
    for record in records:
        assert (record["direction"], record["verdict"]) == ("outbound", "denial")
        assert record["reason"] == "unknown_destination"
        assert record["connection_security_policy"] == "unknown"


@each_family
def test_destination_that_is_enrolled_within_the_wait_is_reached(
    shared_node: Node, shared_client: Workload, family: int
) -> None:
    late = shared_node.plain_namespace(f"late-{family_id(family)}")
    wire = shared_node.wire(shared_client, late, marker=MARKER)
    with wire, late.listen(family) as listener, shared_client.connect(listener.getsockname()[:2]) as near:
        source = endpoint(near)
        near.sendall(MARKER)  # before anybody knows who that is
        timer = threading.Timer(0.5, shared_node.enrolled_namespace, [late.name], {"existing": late})
        timer.start()
        far, peer = listener.accept()
        with far:
            far.settimeout(10)
            assert peer[0] == shared_client.address(family)
            assert receive_exactly(far, len(MARKER)) == MARKER
        timer.join()
    outbound, inbound = shared_node.wait_for_pair(lambda record: record["source_address"] == source)
    assert_mutual_tls((outbound, inbound), shared_client, late)
    assert outbound["duration_ms"] > 400
    shared_node.cli("withdraw", late.name).check()
    late.close()
