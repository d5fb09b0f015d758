"""Certificates that are renewed every ten seconds, under traffic."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.harness.process import wait_until
from tests.harness.tcp import FAMILIES, echo, receive_exactly, serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf]

LIFETIME_SECONDS = 18  # renewed at 50 to 60 % of it: after 9 to 10.8 seconds
RENEWALS = 2
MARKER = b"marker of the payload: 2d8e53"


@pytest.mark.timeout(90)
def test_renewal_under_traffic_costs_not_one_connection(make_node: Callable[..., Node]) -> None:
    node = make_node(lifetime=f"{LIFETIME_SECONDS}s")
    client, server = node.workload("client"), node.workload("server")
    serial_numbers: dict[str, set[str]] = {client.name: set(), server.name: set()}

    def note_certificates() -> None:
        for certificate in node.ask("certificates"):
            assert certificate["state"] == "valid"
            assert certificate["last_error"] is None
            serial_numbers[certificate["workload"]].add(certificate["serial_number"])

    count = 0
    ends_at = time.monotonic() + 60
    with (
        serving(server.listen(FAMILIES[0], 7), echo),
        serving(server.listen(FAMILIES[1], 7), echo),
        # A server takes one connection after the other, so the one that lasts has another.
        serving(server.listen(FAMILIES[0], 8), echo),
        client.connect((server.ipv4, 8)) as lasting,
    ):
        while min(map(len, serial_numbers.values())) <= RENEWALS:
            assert time.monotonic() < ends_at, f"renewed too rarely: {serial_numbers}"
            for family in FAMILIES:
                with client.connect((server.address(family), 7)) as near:
                    near.sendall(MARKER)
                    assert receive_exactly(near, len(MARKER)) == MARKER
                count += 1
            lasting.sendall(MARKER)
            assert receive_exactly(lasting, len(MARKER)) == MARKER
            if count % 50 == 0:
                note_certificates()
    wait_until(lambda: node.status()["connections_open"] == 0, "every connection has ended")
    records = node.wait_for_records(lambda _: True, 2 * (count + 1))
    assert count > 500
    assert [record for record in records if record["reason"] or record["close_kind"] != "fin"] == []
    assert {record["tls_version"] for record in records} == {"TLSv1.3"}
