"""What connection records must say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.harness.namespace import EnrolledNamespace, Workload
    from tests.harness.node import Record

    Enrolled = Workload | EnrolledNamespace


def assert_mutual_tls(pair: tuple[Record, Record], source: Enrolled, destination: Enrolled) -> None:
    """Both sides carried the connection over TLS 1.3, and each proved the other's identity."""
    outbound, inbound = pair
    assert (outbound["direction"], inbound["direction"]) == ("outbound", "inbound")
    for record in pair:
        assert record["verdict"] == "permit", record
        assert record["reason"] is None, record
        assert record["connection_security_policy"] == "mutual_tls", record
        assert record["tls_version"] == "TLSv1.3", record
        assert record["tls_cipher"], record
        assert record["tls_key_exchange"], record
        assert record["source_identity"] == source.identity, record
        assert record["destination_identity"] == destination.identity, record
        assert record["source_workload"] == source.name, record
        assert record["destination_workload"] == destination.name, record
    assert outbound["trace_id"] == inbound["trace_id"]
    assert outbound["id"] != inbound["id"]
    # The application's port is in both; the client's port is the application's own, or the tunnel's.
    assert outbound["destination_address"] == inbound["destination_address"]
    assert _host(outbound["source_address"]) == _host(inbound["source_address"])


def assert_same_bytes(pair: tuple[Record, Record], sent: int, received: int) -> None:
    """Both sides counted the same bytes, as the source sees them."""
    for record in pair:
        assert (record["bytes_sent"], record["bytes_received"]) == (sent, received), record


def _host(endpoint: str) -> str:
    return endpoint.rpartition(":")[0]
