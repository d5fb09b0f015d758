"""Who came without an identity is remembered for an hour, also over a restart, and no more of them than fit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from interceptor.agent import plaintext_peers
from interceptor.agent.plaintext_peers import PlaintextPeer, PlaintextPeers
from interceptor.policy.verdict import Permit, Transport
from interceptor.telemetry.access_log import format_record
from interceptor.telemetry.connection_record import ClosedBy, CloseKind, ConnectionRecord
from interceptor.workload import Direction, Endpoint, parse_address
from tests.policy.world import DB

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2027, 1, 15, tzinfo=UTC).timestamp()


def record(
    source: str = "192.0.2.7:4000", at: float = NOW, transport: Transport = Transport.PLAINTEXT
) -> ConnectionRecord:
    made = ConnectionRecord(
        Direction.INBOUND, "c1", "t1", Endpoint.parse(source), Endpoint.parse("10.0.0.2:80"), at, 1.0
    )
    made.destination_workload = DB
    made.decide(Permit(transport))
    return made


PEER = PlaintextPeer(DB.key, Endpoint.parse("10.0.0.2:80"), parse_address("192.0.2.7"))


def come_and_go(peers: PlaintextPeers, made: ConnectionRecord) -> None:
    """A connection that ends in the moment in which it is made."""
    peers.opened(made)
    made.finish(made.opened_monotonic, ClosedBy.SOURCE, CloseKind.FIN)
    peers.closed(made)


def test_plaintext_is_remembered_once_for_each_peer_and_nothing_else() -> None:
    peers = PlaintextPeers()
    outbound = record("192.0.2.9:1")
    outbound.direction = Direction.OUTBOUND
    for made in (
        record(),
        record("192.0.2.7:5000", NOW + 1),
        record("192.0.2.8:1", NOW, Transport.MUTUAL_TLS),
        outbound,
    ):
        come_and_go(peers, made)
    assert peers.since(NOW) == (PEER,)
    assert peers.since(NOW + 1) == ()


def test_connection_that_is_still_open_counts_however_old_it_is() -> None:
    peers = PlaintextPeers()
    first, second = record(at=NOW - 90_000), record("192.0.2.7:5000", NOW - 90_000)
    for made in (first, second):
        peers.opened(made)
    assert peers.since(NOW - 3600) == (PEER,)
    first.finish(1.0 + 10_000, ClosedBy.SOURCE, CloseKind.FIN)
    peers.closed(first)
    assert peers.since(NOW - 3600) == (PEER,)
    second.finish(1.0 + 89_000, ClosedBy.SOURCE, CloseKind.FIN)
    peers.closed(second)
    assert peers.since(NOW - 1000.5) == (PEER,)
    assert peers.since(NOW - 999.5) == ()


def test_end_of_what_was_no_plaintext_means_nothing() -> None:
    peers = PlaintextPeers()
    made = record(transport=Transport.MUTUAL_TLS)
    peers.opened(made)
    made.finish(2.0, ClosedBy.SOURCE, CloseKind.FIN)
    peers.closed(made)
    assert peers.since(0) == ()


def test_oldest_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plaintext_peers, "MAX_PEERS", 2)
    peers = PlaintextPeers()
    for number in (1, 2, 1, 3):
        come_and_go(peers, record(f"192.0.2.{number}:1"))
    assert [str(peer.source) for peer in peers.since(0)] == ["192.0.2.1", "192.0.2.3"]


def test_agent_before_is_remembered_by_its_file_of_records(tmp_path: Path) -> None:
    path = tmp_path / "connections.jsonl"
    lines = []
    for made in (
        record(at=NOW - 10),
        record("192.0.2.8:1", NOW - 4000),
        record("192.0.2.6:1", NOW - 4000),
        record("192.0.2.9:1", NOW, Transport.MUTUAL_TLS),
    ):
        made.finish(1000.0 if "192.0.2.6" in str(made.source) else 2.0, ClosedBy.SOURCE, CloseKind.FIN)
        lines.append(format_record(made))
    path.write_text(
        "\n".join(
            [
                *lines,
                '"inbound" "none"',
                '["inbound", "none"]',
                lines[0].replace('"none"', '"x", "y": "none"'),
                "",
            ]
        )
    )
    peers = PlaintextPeers()
    peers.remember(path, NOW)
    assert [str(peer.source) for peer in peers.since(0)] == ["192.0.2.7", "192.0.2.6"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_file_of_records_that_cannot_be_read_is_passed_over(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "connections.jsonl"
    if content is not None:
        path.write_bytes(content)
    peers = PlaintextPeers()
    peers.remember(path, NOW)
    assert peers.since(0) == ()
