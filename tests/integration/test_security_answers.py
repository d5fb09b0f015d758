"""What an application answers stays on loopback until the proxy has it, whatever becomes of the namespace's routing.

The proxy borrows the client's address, so only rules and routes lead the answers back to it.  Who administers the
namespace, or a program that tidies up in it, can take them away while connections are open.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.harness.tcp import FAMILIES, connected, family_id, receive_exactly

if TYPE_CHECKING:
    from tests.harness.namespace import Workload
    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf]

MARKER = b"marker of an answer: 3d5e80"
RETRANSMITTED_SECONDS = 0.7  # twice at least: the first after 0.2 s
TAKEN_AWAY = {
    "rule": ["rule", "del", "priority", "15008"],
    "routes": ["route", "flush", "table", "15008"],
    "loopback": ["link", "set", "lo", "down"],
}


@pytest.mark.parametrize("family", FAMILIES, ids=family_id)
@pytest.mark.parametrize("command", TAKEN_AWAY.values(), ids=list(TAKEN_AWAY))
def test_answer_whose_way_back_to_the_proxy_was_taken_away_leaves_by_no_link(
    shared_node: Node, shared_client: Workload, command: list[str], family: int
) -> None:
    version = "-4" if family == socket.AF_INET else "-6"
    with (
        shared_node.workload_for_a_while("tidy") as tidy,
        shared_node.wire(shared_client, tidy, marker=MARKER, expect="anything") as wire,
        connected(shared_client, tidy, family) as (near, far),
    ):
        far.sendall(MARKER)
        assert receive_exactly(near, len(MARKER)) == MARKER
        tidy.run("ip", version, *command).check()
        deadline = time.monotonic() + RETRANSMITTED_SECONDS
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                far.sendall(MARKER)
                time.sleep(0.02)
    assert wire.tcp_payload_bytes > 0
    assert not wire.marker_seen, f"plaintext on the wire: {wire.marker_seen}"
