"""iperf3, both directions: a control connection, and a bulk one beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.harness.records import assert_mutual_tls
from tests.harness.tcp import FAMILIES, family_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.namespace import Workload
    from tests.harness.node import Node
    from tests.harness.process import Program

pytestmark = [pytest.mark.netns, pytest.mark.bpf]

PATTERN = b"0123456789" * 4  # what --repeating-payload sends


@pytest.fixture(scope="module")
def meter(shared_node: Node) -> Iterator[tuple[Workload, Program]]:
    """A workload with an iperf3 server, and its program."""
    workload = shared_node.workload("meter")
    server = workload.spawn("iperf3", "--server", "--forceflush", ready_port=5201)
    yield workload, server
    workload.close()


@pytest.mark.parametrize("family", FAMILIES, ids=family_id)
@pytest.mark.parametrize("direction", ["upload", "download"])
def test_bulk_flow_passes_encrypted(
    shared_node: Node,
    shared_client: Workload,
    meter: tuple[Workload, Program],
    family: int,
    direction: str,
) -> None:
    workload, server = meter
    since = shared_node.mark()
    command = [
        "iperf3",
        "--client",
        workload.address(family),
        "--bytes",
        "64M",
        "--json",
        "--repeating-payload",
    ]
    with shared_node.wire(shared_client, workload, marker=PATTERN) as wire:
        result = shared_client.run(*command, *(["--reverse"] if direction == "download" else [])).check()
    report = json.loads(result.stdout)
    received = report["end"]["sum_received"]["bytes"]
    # An upload ends when the client has sent everything; the server leaves what is still on its way.
    assert received >= 32_000_000
    assert wire.tcp_payload_bytes > 2 * received  # both links
    assert f"Accepted connection from {shared_client.address(family)}, port " in server.stdout
    bulk = shared_node.wait_for_pair(
        lambda record: record["bytes_sent"] + record["bytes_received"] >= received, since=since
    )
    assert_mutual_tls(bulk, shared_client, workload)
    assert (bulk[0]["bytes_sent"] > bulk[0]["bytes_received"]) == (direction == "upload")
