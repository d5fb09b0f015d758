"""Many connections: at once, and one after the other, with nothing left behind."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from tests.harness.process import wait_until
from tests.harness.tcp import FAMILIES, echo, receive_exactly, serving

if TYPE_CHECKING:
    from tests.harness.namespace import Workload
    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf]

MARKER = b"marker of the payload: 46a9d8"
AT_ONCE = 100
ONE_AFTER_THE_OTHER = 10_000
PORT = 8085


@pytest.fixture
def pair(node: Node) -> tuple[Node, Workload, Workload]:
    """A node of its own, so that nobody else's connections are counted."""
    return node, node.workload("client"), node.workload("server")


def facts(node: Node) -> dict[str, int]:
    """What must be as it was, when the connections are gone."""
    status = node.status()
    return {
        "file descriptors": node.open_descriptors(),
        "connections": status["connections_open"],
        "flows in the kernel": status["handshakes_captured"],
    }


def test_hundred_connections_at_once_all_carry_their_own_bytes(
    shared_node: Node, shared_client: Workload, shared_server: Workload
) -> None:
    before = facts(shared_node)
    wire = shared_node.wire(shared_client, shared_server, marker=MARKER)
    with wire, contextlib.ExitStack() as stack:
        near, far = [], {}
        listeners = {family: stack.enter_context(shared_server.listen(family, PORT)) for family in FAMILIES}
        for number in range(AT_ONCE):  # nobody accepts yet
            family = FAMILIES[number % 2]
            near.append(stack.enter_context(shared_client.connect((shared_server.address(family), PORT))))
            near[-1].sendall(number.to_bytes(4, "big") + MARKER)
        for number in range(AT_ONCE):
            accepted = stack.enter_context(listeners[FAMILIES[number % 2]].accept()[0])
            accepted.settimeout(10)
            who = int.from_bytes(receive_exactly(accepted, 4), "big")
            assert receive_exactly(accepted, len(MARKER)) == MARKER
            far[who] = accepted
        assert sorted(far) == list(range(AT_ONCE))
        assert shared_node.status()["connections_open"] == before["connections"] + 2 * AT_ONCE
        for number, accepted in far.items():
            accepted.sendall(number.to_bytes(4, "big") + MARKER)
        for number, sock in enumerate(near):
            assert receive_exactly(sock, 4 + len(MARKER)) == number.to_bytes(4, "big") + MARKER
    wait_until(lambda: facts(shared_node) == before, f"all is as before: {before}, {facts(shared_node)}")


@pytest.mark.timeout(240)
def test_ten_thousand_connections_one_after_the_other_leave_nothing_behind(
    pair: tuple[Node, Workload, Workload],
) -> None:
    node, client, server = pair
    address = {family: (server.address(family), PORT) for family in FAMILIES}

    def once(family: int) -> None:
        with client.connect(address[family]) as near:
            near.sendall(MARKER)
            assert near.recv(100) == MARKER

    with (
        serving(server.listen(socket.AF_INET, PORT), echo) as ipv4_peers,
        serving(server.listen(socket.AF_INET6, PORT), echo) as ipv6_peers,
    ):
        for family in FAMILIES * 10:  # what is made once, is made now
            once(family)
        wait_until(lambda: facts(node)["connections"] == 0, "the first ones are gone")
        before, memory = facts(node), resident_bytes(node.agent_pid)
        for number in range(ONE_AFTER_THE_OTHER):
            once(FAMILIES[number % 2])
        wait_until(lambda: facts(node) == before, f"all is as before: {before}")
    assert len(ipv4_peers) == len(ipv6_peers) == 10 + ONE_AFTER_THE_OTHER // 2
    assert {peer[0] for peer in ipv4_peers} == {client.ipv4}
    assert {peer[0] for peer in ipv6_peers} == {client.ipv6}
    total = ONE_AFTER_THE_OTHER + 20
    records = node.wait_for_records(lambda record: record["verdict"] == "permit", 2 * total, timeout=30)
    assert len(records) == 2 * total
    assert {record["close_kind"] for record in records} == {"fin"}
    counters = node.status()["kernel_counters"]
    assert counters["captured_ipv4"] == counters["captured_ipv6"] == total // 2
    assert counters["steered_tunnel"] == total
    assert not any(count for name, count in counters.items() if name.startswith("refused"))
    # A record of each stays for a while (1000 of them); a task, or a buffer of 16 KiB, would be 160 MB.
    assert resident_bytes(node.agent_pid) - memory < 32 * 1024 * 1024


def resident_bytes(pid: int) -> int:
    """What a process has in memory (proc_pid_statm(5))."""
    with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123 - procfs
        return int(file.read().split()[1]) * 4096
