"""The authority that an agent has of its own, by the commands that a served one has too; and connections that age."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.harness.node import running_node
from tests.harness.process import wait_until
from tests.harness.tcp import connected, receive_exactly

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tests.harness.namespace import Workload
    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf]


def exchange(near: socket.socket, far: socket.socket) -> None:
    near.sendall(b"ping")
    assert receive_exactly(far, 4) == b"ping"


def is_reset(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b"never"
    except ConnectionResetError:
        return True


def is_refused(client: Workload, server: Workload) -> bool:
    """Whether a new connection is reset: in `connect` itself already, when that is slower than the proxy."""
    try:
        with client.connect((server.ipv4, 80)) as refused:
            return is_reset(refused)
    except ConnectionResetError:
        return True


@pytest.fixture(scope="module")
def node(_swept: None) -> Iterator[Node]:
    """A running agent of this module's own, whose certificates live for twenty seconds."""
    with running_node(lifetime="20s") as node:
        yield node


@pytest.fixture(scope="module")
def client(node: Node) -> Workload:
    return node.workload("client")


@pytest.fixture(scope="module")
def server(node: Node) -> Workload:
    return node.workload("server")


def test_revocation_at_the_embedded_authority_resets_both_ends_within_seconds_and_can_be_taken_back(
    node: Node, client: Workload, server: Workload
) -> None:
    other = node.workload("other")
    with connected(client, server) as (near, far), connected(other, server) as (near_other, far_other):
        exchange(near, far)
        exchange(near_other, far_other)
        mark = node.mark()
        began = time.monotonic()
        node.cli("ca", "revoke", client.identity, "--why", "laptop was stolen").check()
        assert is_reset(near)
        assert is_reset(far)
        assert time.monotonic() - began < 5
        exchange(near_other, far_other)
    records = node.wait_for_records(lambda r: r["source_workload"] == "client", 2)
    assert {(r["direction"], r["reason"]) for r in records} == {
        ("outbound", "identity_revoked"),
        ("inbound", "peer_revoked"),
    }
    assert all("laptop was stolen" in record["detail"] for record in records)
    assert is_refused(client, server)
    again = node.wait_for_record(lambda r: r["source_workload"] == "client", since=mark)
    assert again["reason"] == "identity_revoked"
    status = node.cli("status")
    assert status.status == 1
    assert "laptop was stolen" in status.stdout
    assert node.status()["authority"]["revocations"] == 1
    assert node.certificate(client)["state"] == "revoked"
    assert node.certificate(other)["state"] == "valid"
    node.cli("ca", "unrevoke", client.identity).check()
    wait_until(lambda: node.status()["state"] == "ready", "the identity is believed again", 5)
    assert node.certificate(client)["state"] == "valid"
    with connected(client, server) as (near, far):
        exchange(near, far)


@pytest.mark.timeout(90)
def test_agent_is_ready_though_one_workload_may_not_have_its_identity(
    node: Node, client: Workload, server: Workload
) -> None:
    """It is started anew meanwhile, so that the revoked one has no certificate at all."""
    other = node.workload("revoked-one")
    node.cli("ca", "revoke", other.identity, "--why", "laptop was stolen").check()
    node.kill()
    node.up().check()
    with connected(client, server) as (near, far):
        exchange(near, far)
    status = node.cli("status")
    assert status.status == 1
    assert "default/revoked-one: it has no certificate: identity_revoked: " in status.stdout
    assert "laptop was stolen" in status.stdout
    node.cli("ca", "unrevoke", other.identity).check()
    wait_until(lambda: node.status()["state"] == "ready", "the identity is believed again", 10)
    with connected(other, server) as (near, far):
        exchange(near, far)
    other.close()


def test_workload_whose_certificate_is_revoked_has_another_at_once_and_goes_on(
    node: Node, client: Workload, server: Workload
) -> None:
    serial = node.certificate(client)["serial_number"]
    with connected(client, server) as (near, far):
        exchange(near, far)
        node.cli("ca", "revoke", serial).check()
        assert is_reset(near)
    wait_until(lambda: node.certificate(client)["serial_number"] != serial, "it has another certificate", 5)
    with connected(client, server) as (near, far):
        exchange(near, far)
    assert node.status()["state"] == "ready"


@pytest.mark.timeout(60)
def test_root_of_the_embedded_authority_is_rotated_under_a_connection_that_lasts(
    node: Node, client: Workload, server: Workload
) -> None:
    """Each step waits for this agent as it would for any other node."""
    mark = node.mark()
    before = node.status()["authority"]["trust_bundle"]
    with connected(client, server) as (near, far):
        for step in ("prepare", "distribute", "activate", "retire"):
            wait_until(
                lambda step=step: node.cli("ca", "rotate", step).status == 0,
                f"{step} is permitted",
                15,
                poll=0.2,
            )
            exchange(near, far)
            with connected(client, server) as (new, new_far):
                exchange(new, new_far)
    assert node.status()["authority"]["trust_bundle"] != before
    assert all(certificate["issued"] >= 2 for certificate in node.ask("certificates"))
    bad = [record for record in node.records(mark) if record["reason"] or record["close_kind"] != "fin"]
    assert bad == []


def test_connection_is_closed_at_its_greatest_age_and_the_next_one_is_served(
    make_node: Callable[..., Node],
) -> None:
    node = make_node(limits={"connectionMaxAge": "2s"})
    client, server = node.workload("client"), node.workload("server")
    with connected(client, server) as (near, far):
        exchange(near, far)
        began = time.monotonic()
        assert is_reset(near)
        assert 0.5 < time.monotonic() - began < 5
    records = node.wait_for_records(lambda r: r["reason"] == "connection_too_old", 1)
    assert "allowed are 2 s" in records[0]["detail"]
    with connected(client, server) as (near, far):
        exchange(near, far)


@pytest.mark.timeout(60)
def test_connection_outlives_its_peers_certificate_by_the_grace_and_no_longer(
    make_node: Callable[..., Node],
) -> None:
    node = make_node(lifetime="10s", certificates={"lifetime": "10s", "expiredPeerGrace": "0s"})
    client, server = node.workload("client"), node.workload("server")
    with connected(client, server) as (near, far):
        exchange(near, far)
        began = time.monotonic()
        near.settimeout(20)
        assert is_reset(near)
        assert 8 < time.monotonic() - began < 14
    record = node.wait_for_record(lambda r: r["reason"] == "peer_certificate_expired_since")
    assert "the certificate that the peer showed expired at" in record["detail"]
    assert {certificate["state"] for certificate in node.ask("certificates")} == {"valid"}
