"""What an application can see of its connections is what it would see without us: names, ends, resets, order."""

from __future__ import annotations

import os
import random
import socket
from typing import TYPE_CHECKING

import pytest

from tests.harness.namespace import reset
from tests.harness.records import assert_mutual_tls, assert_same_bytes
from tests.harness.tcp import (
    FAMILIES,
    connected,
    echo,
    endpoint,
    family_id,
    receive_all,
    receive_exactly,
    sending,
    serving,
)

if TYPE_CHECKING:
    from tests.harness.namespace import Workload
    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=family_id)

MARKER = b"marker of the payload: 7f3a9c"
BULK = random.Random(1).randbytes(2 * 1024 * 1024) + MARKER  # more than the buffers on the way hold at first


@each_family
def test_connection_between_workloads_shows_both_applications_the_real_addresses(
    shared_node: Node, shared_client: Workload, shared_server: Workload, family: int
) -> None:
    wire = shared_node.wire(shared_client, shared_server, marker=MARKER)
    with wire, connected(shared_client, shared_server, family, port=8080) as (near, far):
        source = endpoint(near)
        assert near.getsockname()[0] == shared_client.address(family)
        assert near.getpeername()[:2] == (shared_server.address(family), 8080)
        assert far.getpeername()[0] == shared_client.address(family)
        assert far.getsockname()[:2] == (shared_server.address(family), 8080)
        near.sendall(MARKER)
        assert receive_exactly(far, len(MARKER)) == MARKER
        far.sendall(MARKER * 2)
        assert receive_exactly(near, 2 * len(MARKER)) == MARKER * 2
    pair = shared_node.wait_for_pair(lambda record: record["source_address"] == source)
    assert_mutual_tls(pair, shared_client, shared_server)
    assert_same_bytes(pair, len(MARKER), 2 * len(MARKER))
    assert all(record["close_kind"] == "fin" for record in pair)


@each_family
def test_client_that_ends_its_sending_still_reads_the_answer(
    shared_node: Node, shared_client: Workload, shared_server: Workload, family: int
) -> None:
    wire = shared_node.wire(shared_client, shared_server, marker=MARKER)
    with wire, connected(shared_client, shared_server, family) as (near, far):
        source = endpoint(near)
        with sending(near, BULK, then=lambda: near.shutdown(socket.SHUT_WR)):
            assert receive_all(far) == BULK
        with sending(far, BULK[::-1] + MARKER, then=far.close):
            assert receive_all(near) == BULK[::-1] + MARKER
    pair = shared_node.wait_for_pair(lambda record: record["source_address"] == source)
    assert_same_bytes(pair, len(BULK), len(BULK) + len(MARKER))
    assert [record["closed_by"] for record in pair] == ["source", "source"]
    assert [record["close_kind"] for record in pair] == ["fin", "fin"]


@each_family
def test_server_that_ends_its_sending_still_reads_what_the_client_sends(
    shared_node: Node, shared_client: Workload, shared_server: Workload, family: int
) -> None:
    wire = shared_node.wire(shared_client, shared_server, marker=MARKER)
    with wire, connected(shared_client, shared_server, family) as (near, far):
        source = endpoint(near)
        far.sendall(MARKER)
        far.shutdown(socket.SHUT_WR)
        assert receive_all(near) == MARKER
        with sending(near, BULK, then=near.close):
            assert receive_all(far) == BULK
    pair = shared_node.wait_for_pair(lambda record: record["source_address"] == source)
    assert_same_bytes(pair, len(BULK), len(MARKER))
    assert [record["closed_by"] for record in pair] == ["destination", "destination"]


def test_close_right_after_sending_loses_nothing(shared_client: Workload, shared_server: Workload) -> None:
    with connected(shared_client, shared_server) as (near, far), sending(near, BULK, then=near.close):
        assert receive_all(far) == BULK


@each_family
def test_both_directions_at_once_arrive_whole_and_in_order(
    shared_client: Workload, shared_server: Workload, family: int
) -> None:
    data = random.Random(2).randbytes(16 * 1024 * 1024)
    with (
        serving(shared_server.listen(family, 7), echo),
        shared_client.connect((shared_server.address(family), 7)) as near,
        sending(near, data, then=lambda: near.shutdown(socket.SHUT_WR)),
    ):
        assert receive_all(near) == data


@each_family
def test_urgent_data_arrives_in_its_place(
    shared_client: Workload, shared_server: Workload, family: int
) -> None:
    with connected(shared_client, shared_server, family) as ends:
        for sender, receiver in (ends, ends[::-1]):
            sender.sendall(b"before")
            sender.send(b"!", socket.MSG_OOB)
            sender.sendall(b"after")
            sender.shutdown(socket.SHUT_WR)
            assert receive_all(receiver) == b"before!after"


@each_family
def test_reset_by_the_client_is_a_reset_for_the_server(
    shared_node: Node, shared_client: Workload, shared_server: Workload, family: int
) -> None:
    with connected(shared_client, shared_server, family) as (near, far):
        source = endpoint(near)
        near.sendall(MARKER)
        assert receive_exactly(far, len(MARKER)) == MARKER
        reset(near)
        with pytest.raises(ConnectionResetError):
            far.recv(1)
    pair = shared_node.wait_for_pair(lambda record: record["source_address"] == source)
    assert [record["closed_by"] for record in pair] == ["source", "source"]
    assert [record["close_kind"] for record in pair] == ["reset", "reset"]


@each_family
def test_reset_by_the_server_is_a_reset_for_the_client(
    shared_node: Node, shared_client: Workload, shared_server: Workload, family: int
) -> None:
    with connected(shared_client, shared_server, family) as (near, far):
        source = endpoint(near)
        near.sendall(MARKER)
        assert receive_exactly(far, len(MARKER)) == MARKER
        reset(far)
        with pytest.raises(ConnectionResetError):
            near.recv(1)
    pair = shared_node.wait_for_pair(lambda record: record["source_address"] == source)
    assert [record["closed_by"] for record in pair] == ["destination", "destination"]
    assert [record["close_kind"] for record in pair] == ["reset", "reset"]


@each_family
def test_port_that_nobody_listens_on_resets_the_client_and_is_recorded(
    shared_node: Node, shared_client: Workload, shared_server: Workload, family: int
) -> None:
    since = shared_node.mark()
    # We accept before the application was asked; a plain connect(2) would have been refused.
    with (
        pytest.raises((ConnectionResetError, ConnectionRefusedError)),
        shared_client.connect((shared_server.address(family), 9)) as near,
    ):
        near.recv(1)
    denied = shared_node.wait_for_records(lambda record: record["reason"], 2, since=since)
    assert {(record["direction"], record["reason"]) for record in denied} == {
        ("outbound", "destination_refused"),
        ("inbound", "destination_refused"),
    }
    assert all(record["destination_address"].endswith(":9") for record in denied)


@each_family
def test_datagrams_between_workloads_are_untouched(
    shared_node: Node, shared_client: Workload, shared_server: Workload, family: int
) -> None:
    wire = shared_node.wire(shared_client, marker=MARKER, expect="anything")
    with wire, shared_server.open_socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((shared_server.address(family), 5353))
        with shared_client.open_socket(family, socket.SOCK_DGRAM) as sender:
            sender.connect((shared_server.address(family), 5353))
            sender.send(MARKER)
            data, peer = receiver.recvfrom(100)
            assert (data, peer[:2]) == (MARKER, sender.getsockname()[:2])
            receiver.sendto(MARKER[::-1], peer)
            assert sender.recv(100) == MARKER[::-1]
    assert wire.udp_packets >= 2
    assert wire.tcp_packets == 0


def test_many_short_messages_are_not_delayed(shared_client: Workload, shared_server: Workload) -> None:
    message = os.urandom(128)
    with (
        serving(shared_server.listen(socket.AF_INET, 7), echo),
        shared_client.connect((shared_server.ipv4, 7)) as near,
    ):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        near.settimeout(5)
        for _ in range(500):
            near.sendall(message)
            assert receive_exactly(near, len(message)) == message
