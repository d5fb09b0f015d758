"""workloads, connections, certificates, status, of a real agent: keys are stable, and what is shown is so."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from interceptor import admin
from tests.harness.process import read_line, wait_until

if TYPE_CHECKING:
    from tests.harness.namespace import Workload
    from tests.harness.node import Node

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(60)]

WORKLOAD_KEYS = [
    "name",
    "namespace",
    "service_account",
    "identity",
    "addresses",
    "labels",
    "state",
    "problems",
    "connections",
    "netns",
    "pid",
    "host_link",
    "pod_uid",
    "netns_inode",
    "netns_cookie",
]
CERTIFICATE_KEYS = [
    "workload",
    "namespace",
    "identity",
    "state",
    "serial_number",
    "not_before",
    "not_after",
    "remaining_seconds",
    "remaining_fraction",
    "renew_at",
    "issued",
    "last_error",
]
STATUS_KEYS = [
    "version",
    "pid",
    "node",
    "trust_domain",
    "mode",
    "mesh_cidrs",
    "started_at",
    "state",
    "ready",
    "waiting_for",
    "problems",
    "programs_attached",
    "workloads",
    "degraded_workloads",
    "draining",
    "connections_open",
    "handshakes_captured",
    "authority",
    "authority_not_after",
    "kubernetes",
    "policies",
    "policy_warnings",
    "metrics_address",
    "kernel_counters",
]
CONNECTION_KEYS = [
    "id",
    "trace_id",
    "time",
    "direction",
    "source_address",
    "source_workload",
    "source_namespace",
    "source_identity",
    "destination_address",
    "destination_workload",
    "destination_namespace",
    "destination_identity",
    "bytes_sent",
    "bytes_received",
    "duration_ms",
    "closed_by",
    "close_kind",
    "verdict",
    "reason",
    "detail",
    "policy",
    "exception",
    "note",
    "dry_run",
    "connection_security_policy",
    "tls_version",
    "tls_cipher",
    "tls_key_exchange",
    "peer_serial_number",
    "state",
]


def read(node: Node, *arguments: str) -> Any:
    return json.loads(node.cli(*arguments, "-o", "json").check().stdout)


def carry(client: Workload, server: Workload) -> str:
    """One connection from its beginning to its end, with five bytes; how a destination in a table ends."""
    with server.listen() as listener, client.connect(listener.getsockname()) as near:
        far, _ = listener.accept()
        with far:
            near.sendall(b"hello")
            assert far.recv(5) == b"hello"
        return f":{listener.getsockname()[1]} "


def test_workload_is_shown_as_it_is(shared_node: Node, shared_client: Workload) -> None:
    rows = read(shared_node, "workloads")
    assert all(list(row) == WORKLOAD_KEYS for row in rows)
    row = next(row for row in rows if row["name"] == "client")
    assert (row["state"], row["problems"]) == ("ready", [])
    assert row["identity"] == shared_client.identity == "spiffe://cluster.local/ns/default/sa/client"
    assert row["addresses"] == [shared_client.ipv4, shared_client.ipv6]
    assert row["host_link"] == shared_client.host_link
    assert row["pid"] == shared_client.holder.pid
    assert row["netns_inode"] == shared_client.netns.inode
    assert row["netns_cookie"] == shared_client.netns.cookie()


def test_certificate_is_shown_without_a_key(shared_node: Node, shared_client: Workload) -> None:
    text = shared_node.cli("certificates", "-o", "yaml").check().stdout
    rows = yaml.safe_load(text)
    assert all(list(row) == CERTIFICATE_KEYS for row in rows)
    row = next(row for row in rows if row["identity"] == shared_client.identity)
    assert (row["state"], row["last_error"]) == ("valid", None)
    assert 0 < row["remaining_seconds"] <= 24 * 3600
    assert 0 < row["remaining_fraction"] <= 1
    assert "PRIVATE KEY" not in text


def test_status_of_a_node_that_is_well(shared_node: Node, shared_client: Workload) -> None:
    del shared_client
    answer = read(shared_node, "status")
    assert list(answer) == STATUS_KEYS
    assert (answer["state"], answer["ready"], answer["problems"]) == ("ready", True, [])
    assert answer["node"] == shared_node.name
    assert answer["workloads"] >= 1
    authority = answer["authority"]
    assert list(authority) == [
        "address",
        "node_certificate",
        "trust_bundle",
        "trust_bundle_age_seconds",
        "revocations",
        "last_error",
    ]
    assert (authority["address"], authority["node_certificate"], authority["last_error"]) == (None,) * 3
    assert 0 <= authority["trust_bundle_age_seconds"] < 60
    assert shared_node.cli("status").check().stdout.splitlines()[0].split() == ["state", "ready"]
    node = shared_node.cli("status", "--node")
    assert (node.status, node.stdout) == (2, "")
    assert node.stderr.strip().endswith("this host is no node of a cluster: see 'interceptor workloads'")


def test_connections_are_shown_newest_first(
    shared_node: Node, shared_client: Workload, shared_server: Workload
) -> None:
    mark = shared_node.mark()
    carry(shared_client, shared_server)
    outbound, inbound = shared_node.wait_for_pair(since=mark)
    rows = read(shared_node, "connections", "--limit", "2")
    assert all(list(row) == CONNECTION_KEYS for row in rows)
    assert {row["id"] for row in rows} == {outbound["id"], inbound["id"]}
    assert all(row["bytes_sent"] == 5 and row["tls_version"] == "TLSv1.3" for row in rows)
    table = shared_node.cli("connections", "--limit", "2").check().stdout.splitlines()
    assert [line.split()[0] for line in table] == ["TIME", rows[0]["time"][11:19], rows[1]["time"][11:19]]


def test_denied_and_open_connections_are_told_apart(
    shared_node: Node, shared_client: Workload, shared_server: Workload
) -> None:
    mark = shared_node.mark()
    with socket.socket() as outside:
        outside.settimeout(10)
        with contextlib.suppress(OSError):  # reset while connecting, or just after
            outside.connect((shared_server.ipv4, 9))
            outside.recv(1)
    denied = shared_node.wait_for_record(lambda row: row["reason"] == "plaintext_refused", since=mark)
    with shared_server.listen() as listener, shared_client.connect(listener.getsockname()):
        far, _ = listener.accept()
        with far:
            opened = read(shared_node, "connections", "--open", "--limit", "100")
            refused = read(shared_node, "connections", "--denied", "--limit", "1")
    assert {row["direction"] for row in opened} == {"outbound", "inbound"}
    assert {row["state"] for row in opened} == {"open"}
    assert [row["id"] for row in refused] == [denied["id"]]


def test_following_prints_connections_as_they_end(
    shared_node: Node, shared_client: Workload, shared_server: Workload
) -> None:
    command = [*shared_node.command(), "connections", "--follow"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        try:
            assert read_line(following.stdout.fileno(), 20).startswith("TIME ")
            destination = carry(shared_client, shared_server)
            seen: list[list[str]] = []
            while len(seen) < 2:
                line = read_line(following.stdout.fileno(), 20)
                assert line, f"only {seen} of {destination} came"
                seen += [line.split()] if destination in line else []
            assert sorted(cells[1] for cells in seen) == ["in", "out"]
            assert {cells[2] for cells in seen} == {"default/client"}
        finally:
            following.send_signal(signal.SIGINT)
        assert following.wait(20) == 130
        assert following.stderr.read() == ""


def test_following_ends_when_nobody_reads(shared_node: Node, shared_client: Workload) -> None:
    del shared_client
    command = [*shared_node.command(), "connections", "--follow", "-o", "json", "--limit", "1"]
    following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert following.stdout is not None
    following.stdout.close()
    assert following.wait(20) == 0
    assert following.stderr is not None
    assert following.stderr.read() == b""
    following.stderr.close()


def test_followed_agent_that_goes_away_is_one_line(node: Node) -> None:
    command = [*node.command(), "connections", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        read_line(following.stdout.fileno(), 20)
        node.kill()
        assert following.wait(20) == 1
        error = following.stderr.read()
        assert error.startswith("interceptor: the agent ")  # has died, or died in the middle of an answer
        assert error.count("\n") == 1


@pytest.mark.parametrize("limit", [0, 10_001, True, "7", None])
def test_agent_refuses_a_limit_that_is_none(shared_node: Node, limit: object) -> None:
    with pytest.raises(admin.AgentError, match="limit must be between 1 and 10000"):
        shared_node.ask("connections", limit=limit)


def test_what_ended_and_what_was_damaged_is_measured(node: Node) -> None:
    with node.workload_for_a_while("job"):
        assert [row["name"] for row in read(node, "workloads")] == ["job"]
    wait_until(lambda: read(node, "workloads") == [], "the workload is gone")
    assert read(node, "certificates") == []
    assert node.cli("workloads").check().stdout.startswith("no workload is enrolled")

    workload = node.workload("web")
    workload.run("ip", "-6", "rule", "del", "priority", "15008").check()
    result = node.cli("status", "-o", "json")
    answer = json.loads(result.stdout)
    assert result.status == 1
    assert (answer["state"], answer["degraded_workloads"]) == ("degraded", ["default/web"])
    assert (
        "default/web: rules, routes or sysctls in its network namespace were changed" in answer["problems"][0]
    )
    table = node.cli("status")
    assert table.status == 1
    assert answer["problems"][0] in table.stdout
    assert "degraded" in node.cli("workloads").check().stdout

    (node.bpf_dir / "connect_ipv4").unlink()
    result = node.cli("status")
    assert result.status == 1
    assert "the capture programs are not attached" in result.stdout
