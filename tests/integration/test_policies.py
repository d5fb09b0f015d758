"""Policies over real workloads: enforced for each connection, changed while they are open, explained, and rehearsed."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.node import running_node
from tests.harness.process import wait_until
from tests.harness.tcp import connected, receive_exactly
from tests.policy.world import authorization, egress, exception, peer_authentication

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness.namespace import Namespace, Workload
    from tests.harness.node import Node

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(60)]

MARKER = b"what nobody else may read"
SELECT_SERVER = "{matchLabels: {app: server}}"
CLOSED_WITHIN = 3.0  # seconds: half a second until the change is seen, and a machine that others use too


@pytest.fixture(scope="module")
def policy_node(_swept: None) -> Iterator[Node]:
    """A node for the tests of this file, in STRICT mode."""
    with running_node() as node:
        yield node


@pytest.fixture(scope="module")
def server(policy_node: Node) -> Workload:
    return policy_node.workload("server", namespace="shop", labels={"app": "server"})


@pytest.fixture(scope="module")
def client(policy_node: Node) -> Workload:
    return policy_node.workload("client", namespace="shop", labels={"app": "client"})


@pytest.fixture(scope="module")
def other(policy_node: Node) -> Workload:
    return policy_node.workload("other", namespace="bank")


@pytest.fixture(scope="module")
def outsider(policy_node: Node, server: Workload) -> Namespace:
    """Somebody who is not enrolled."""
    plain = policy_node.plain_namespace("outsider", inside=False)
    policy_node.reach(server)
    return plain


@pytest.fixture(autouse=True)
def _no_policies(policy_node: Node) -> Iterator[None]:
    """Each test begins and ends without any."""
    yield
    for path in policy_node.policies_dir.glob("*"):
        path.unlink()
    settled(policy_node, 0)


def settled(node: Node, documents: int) -> dict[str, Any]:
    """The policies, once so many documents are in force and nothing is wrong with them."""

    def answer() -> dict[str, Any] | None:
        found: dict[str, Any] = node.ask("policies")
        return found if len(found["documents"]) == documents and found["state"] == "ready" else None

    wait_until(lambda: answer() is not None, f"{documents} policies are in force")
    found: dict[str, Any] = node.ask("policies")
    return found


def put(node: Node, text: str, name: str = "test.yaml") -> None:
    """Write a file of policies and wait until it is in force."""
    node.policies_dir.mkdir(exist_ok=True)
    (node.policies_dir / name).write_text(text)
    settled(node, text.count("\nkind: "))


def is_served(client: Namespace, server: Workload, port: int = 0) -> bool:
    """Whether something comes through from one to the other."""
    try:
        with connected(client, server, port=port) as (near, far):
            near.sendall(MARKER)
            return receive_exactly(far, len(MARKER)) == MARKER
    except (ConnectionResetError, TimeoutError):
        return False


def is_refused(node: Node, client: Namespace, server: Workload, port: int = 0) -> dict[str, Any]:
    """A connection that is reset; the record of the side that denied it."""
    since = node.mark()
    with server.listen(socket.AF_INET, port) as listener, client.open_socket(socket.AF_INET) as near:
        near.setblocking(True)
        near.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            near.connect(listener.getsockname()[:2])
            near.sendall(MARKER)
            assert near.recv(1) == b""
            pytest.fail("it was not reset")
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    record: dict[str, Any] = node.wait_for_record(
        lambda r: r["reason"] and r["reason"] != "denied_by_peer", since=since
    )
    return record


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (authorization("x", action="DENY", selector=SELECT_SERVER,
                       rules="[{from: [{source: {principals: ['*/ns/shop/sa/client']}}]}]"), "by identity"),
        (authorization("x", action="DENY", rules="[{from: [{source: {namespaces: [shop]}}]}]"), "by namespace"),
        (authorization("x", action="DENY", rules="[{to: [{operation: {ports: ['7100']}}]}]"), "by port"),
        (authorization("x", action="DENY", rules="[{from: [{source: {ipBlocks: [198.18.0.0/15]}}]}]"), "by CIDR"),
    ],
    ids=lambda value: value if len(value) < 20 else "",
)  # fmt: skip
def test_client_is_denied(
    policy_node: Node, client: Workload, server: Workload, text: str, expected: str
) -> None:
    del expected
    assert is_served(client, server, 7100)
    put(policy_node, text)
    record = is_refused(policy_node, client, server, 7100)
    assert (record["direction"], record["reason"]) == ("inbound", "policy_denied")
    assert record["policy"] == "AuthorizationPolicy shop/x"
    assert record["source_identity"] == client.identity


def test_allow_list_lets_in_who_is_on_it_and_nobody_else(
    policy_node: Node, client: Workload, other: Workload, server: Workload
) -> None:
    put(
        policy_node,
        authorization("a", selector=SELECT_SERVER, rules="[{from: [{source: {serviceAccounts: [client]}}]}]"),
    )
    assert is_served(client, server)
    assert is_refused(policy_node, other, server)["reason"] == "no_allow_matched"


def test_egress_list_holds_the_source_back(policy_node: Node, client: Workload, server: Workload) -> None:
    put(policy_node, egress("out", selector="{matchLabels: {app: client}}", allow="[{ports: ['7101']}]"))
    assert is_served(client, server, 7101)
    record = is_refused(policy_node, client, server, 7102)
    assert (record["direction"], record["reason"]) == ("outbound", "egress_denied")
    assert record["policy"] == "EgressPolicy shop/out"


def test_plaintext_client_is_let_in_by_mode_and_recorded_without_identity(
    policy_node: Node, server: Workload, outsider: Namespace
) -> None:
    assert is_refused(policy_node, outsider, server)["reason"] == "plaintext_refused"
    put(policy_node, peer_authentication("p", mtls="{mode: PERMISSIVE}"))
    since = policy_node.mark()
    assert is_served(outsider, server)
    record = policy_node.wait_for_record(lambda r: r["direction"] == "inbound", since=since)
    assert (record["verdict"], record["connection_security_policy"]) == ("permit", "none")
    assert (record["source_identity"], record["source_workload"]) == (None, None)


def test_mode_of_one_port_is_another(
    policy_node: Node, client: Workload, server: Workload, outsider: Namespace
) -> None:
    text = peer_authentication(
        "p", selector=SELECT_SERVER, mtls="{mode: STRICT}", portLevelMtls="{7103: {mode: DISABLE}}"
    )
    put(policy_node, text)
    assert is_served(outsider, server, 7103)
    record = is_refused(policy_node, outsider, server, 7104)
    assert (record["reason"], record["policy"]) == ("plaintext_refused", "PeerAuthentication shop/p")
    since = policy_node.mark()
    with policy_node.wire(client, server, marker=MARKER, expect="plaintext"):
        assert is_served(client, server, 7103)
    policy_node.wait_for_record(
        lambda r: r["direction"] == "outbound" and r["connection_security_policy"] == "none", since=since
    )
    with policy_node.wire(client, server, marker=MARKER):
        assert is_served(client, server, 7104)


def test_plaintext_that_another_namespace_wants_is_refused_by_the_source(
    policy_node: Node, server: Workload, other: Workload
) -> None:
    put(policy_node, peer_authentication("p", selector=SELECT_SERVER, mtls="{mode: DISABLE}"))
    record = is_refused(policy_node, other, server)
    assert (record["direction"], record["reason"]) == ("outbound", "plaintext_egress_refused")


def test_exception_lets_one_system_in_and_is_counted_and_noted(
    policy_node: Node, server: Workload, outsider: Namespace
) -> None:
    put(
        policy_node,
        exception("old", "INBOUND", cidrs=f"[{outsider.ipv4}]", ports="['7105']", expires="2099-01-01"),
    )
    since = policy_node.mark()
    assert is_served(outsider, server, 7105)
    record = policy_node.wait_for_record(lambda r: r["direction"] == "inbound", since=since)
    assert record["exception"] == "LegacyException shop/old"
    assert is_refused(policy_node, outsider, server, 7106)["reason"] == "plaintext_refused"
    (document,) = settled(policy_node, 1)["documents"]
    assert (document["used"], document["owner"]) == (1, "ops")
    wait_until(
        lambda: any(e["event"] == "exception_used" for e in audit(policy_node)),
        "the use is in the audit trail",
    )


def test_legacy_address_in_the_mesh_is_reached_by_exception(policy_node: Node, client: Workload) -> None:
    legacy = policy_node.plain_namespace("legacy")
    put(policy_node, exception("erp", "OUTBOUND", cidrs=f"[{legacy.ipv4}]", expires="2099-01-01"))
    started = time.monotonic()
    with connected(client, legacy) as (near, far):
        near.sendall(MARKER)
        assert receive_exactly(far, len(MARKER)) == MARKER
    assert time.monotonic() - started < 1.5  # and nobody was waited for


def audit(node: Node) -> list[dict[str, Any]]:
    path = node.state_dir / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_live_connection_that_is_denied_now_is_closed_and_another_never_notices(
    policy_node: Node, client: Workload, other: Workload, server: Workload
) -> None:
    since = policy_node.mark()
    with connected(client, server) as (near, far), connected(other, server) as (kept, kept_far):
        for sock in (near, kept):
            sock.sendall(MARKER)
        for sock in (far, kept_far):
            receive_exactly(sock, len(MARKER))
        (policy_node.policies_dir).mkdir(exist_ok=True)
        started = time.monotonic()
        (policy_node.policies_dir / "cut.yaml").write_text(
            authorization("cut", action="DENY", rules="[{from: [{source: {namespaces: [shop]}}]}]")
        )
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        assert time.monotonic() - started < CLOSED_WITHIN
        record = policy_node.wait_for_record(
            lambda r: r["direction"] == "inbound" and r["reason"] == "policy_denied", since=since
        )
        assert record["policy"] == "AuthorizationPolicy shop/cut"
        assert (record["closed_by"], record["close_kind"]) == ("interceptor", "reset")
        kept.sendall(MARKER)
        assert receive_exactly(kept_far, len(MARKER)) == MARKER


def test_allowed_connection_does_not_notice_a_hundred_reloads(
    policy_node: Node, client: Workload, server: Workload, tmp_path: Path
) -> None:
    with connected(client, server) as (near, far):
        for number in range(100):
            file = tmp_path / "test.yaml"
            file.write_text(authorization(f"n{number}", rules="[{from: [{source: {namespaces: [shop]}}]}]"))
            answer = policy_node.ask("policy_apply", files=[str(file)], by="test", force=False)
            assert answer["connections_closed"] == 0
            near.sendall(MARKER)
            assert receive_exactly(far, len(MARKER)) == MARKER


def test_invalid_file_leaves_the_last_good_set_and_is_told(
    policy_node: Node, client: Workload, server: Workload
) -> None:
    put(policy_node, authorization("deny", action="DENY", rules="[{}]"))
    (policy_node.policies_dir / "zz.yaml").write_text(
        authorization("l7", rules="[{to: [{operation: {methods: [GET]}}]}]")
    )
    wait_until(lambda: policy_node.ask("policies")["state"] == "refused", "the file is refused")
    assert is_refused(policy_node, client, server)["reason"] == "policy_denied"
    listed = policy_node.cli("policies")
    assert listed.status == 1
    assert "zz.yaml:7:" in listed.stdout
    assert "methods: cannot be enforced" in listed.stdout
    status = policy_node.cli("status")
    assert status.status == 1
    assert "policies refused, those before stay in force" in status.stdout


def test_explain_walks_the_documents_of_both_ends(
    policy_node: Node, client: Workload, server: Workload
) -> None:
    put(
        policy_node,
        authorization("ledger", selector=SELECT_SERVER, rules="[{from: [{source: {namespaces: [bank]}}]}]")
        + peer_authentication("p", mtls="{mode: STRICT}"),
    )
    answer = policy_node.ask("explain", source="shop/client", destination="server:7107")
    assert (answer["verdict"], answer["reason"]) == ("denial", "no_allow_matched")
    texts = [step["evidence"] for step in answer["steps"]]
    assert "PeerAuthentication shop/p, namespace-wide, says STRICT for port 7107" in texts
    assert any("rule 0: source.namespace is shop, not bank (namespaces)" in text for text in texts)
    record = is_refused(policy_node, client, server, 7107)
    again = " ".join(policy_node.cli("explain", "--connection", record["id"]).check().stdout.split())
    assert "no_allow_matched" in again
    assert "rule 0: source.namespace is shop, not bank" in again


def test_check_warns_of_what_matches_nobody(policy_node: Node, server: Workload, tmp_path: Path) -> None:
    del server
    file = tmp_path / "a.yaml"
    file.write_text(
        authorization(
            "a", selector="{matchLabels: {app: sever}}", rules="[{from: [{source: {namespaces: [shp]}}]}]"
        )
    )
    result = policy_node.cli("policy", "check", file).check()
    assert "no enrolled workload in its scope with app=sever, so it selects nothing" in result.stdout
    assert "shp matches no enrolled workload" in result.stdout
    file.write_text("kind: x\n")
    broken = policy_node.cli("policy", "check", file)
    assert (broken.status, broken.stderr.count("\n")) == (1, 1)
    assert f"{file}:1:1" in broken.stderr


def test_workload_that_requires_a_policy_waits_for_it(policy_node: Node, client: Workload) -> None:
    labels = {"policy.interceptor.io/requires": "mine"}
    with policy_node.workload_for_a_while("careful", namespace="shop", labels=labels) as careful:
        assert is_refused(policy_node, client, careful)["reason"] == "policy_pending"
        put(policy_node, authorization("mine", rules="[{}]"))
        assert is_served(client, careful)


def test_migration_from_permissive_to_strict(
    policy_node: Node, client: Workload, server: Workload, outsider: Namespace, tmp_path: Path
) -> None:
    """Permissive, somebody still comes in plaintext, simulate names them, strict is refused, then goes by exception."""
    put(policy_node, peer_authentication("mode", mtls="{mode: PERMISSIVE}"), "mode.yaml")
    assert is_served(outsider, server, 7108)
    assert is_served(client, server, 7108)
    strict = tmp_path / "mode.yaml"
    strict.write_text(peer_authentication("mode", mtls="{mode: STRICT}"))
    simulated = json.loads(policy_node.cli("policy", "simulate", strict, "-o", "json").check().stdout)
    assert (outsider.ipv4, "shop/server:7108", "none", "plaintext_refused") in [
        (c["source"], c["destination"], c["before"], c["after"]) for c in simulated["changes"]
    ]
    assert not [c for c in simulated["changes"] if c["source"] == "shop/client"]
    refused = policy_node.cli("policy", "apply", strict)
    assert refused.status == 1
    assert f"{outsider.ipv4} -> shop/server:7108" in refused.stderr
    assert is_served(outsider, server, 7108)
    old = tmp_path / "old.yaml"
    old.write_text(
        exception("probe", "INBOUND", cidrs=f"[{outsider.ipv4}]", ports="['7108']", expires="2099-01-01")
    )
    rest = policy_node.cli("policy", "apply", strict, old)
    assert rest.status == 1  # it came to other ports too, in the tests before
    policy_node.cli("policy", "apply", strict, old, "--force").check()
    assert is_served(outsider, server, 7108)
    assert is_refused(policy_node, outsider, server, 7109)["policy"] == "PeerAuthentication shop/mode"
    assert is_served(client, server, 7109)
    wait_until(
        lambda: any("uid 0" in e.get("by", "") for e in audit(policy_node)), "who asked is in the audit trail"
    )


STRICT_WAYS = {
    "mesh": peer_authentication("mode", "istio-system", mtls="{mode: STRICT}"),
    "namespace": peer_authentication("mode", mtls="{mode: STRICT}"),
    "workload": peer_authentication("mode", selector=SELECT_SERVER, mtls="{mode: STRICT}"),
    "port": peer_authentication(
        "mode", selector=SELECT_SERVER, mtls="{mode: PERMISSIVE}", portLevelMtls="{7110: {mode: STRICT}}"
    ),
    "removal": "# what was here is not needed any more\n",
}


@pytest.mark.parametrize("way", STRICT_WAYS)
def test_every_way_to_strict_names_who_would_be_cut_off(
    policy_node: Node, server: Workload, outsider: Namespace, tmp_path: Path, way: str
) -> None:
    put(policy_node, peer_authentication("mode", mtls="{mode: PERMISSIVE}"), "mode.yaml")
    assert is_served(outsider, server, 7110)
    if way == "port":  # known to the next agent too
        policy_node.kill(signal.SIGTERM)
        policy_node.up().check()
    strict = tmp_path / "mode.yaml"
    strict.write_text(STRICT_WAYS[way])
    refused = policy_node.cli("policy", "apply", strict)
    assert refused.status == 1
    assert f"{outsider.ipv4} -> shop/server:7110" in refused.stderr
    assert is_served(outsider, server, 7110)


def test_exception_that_is_taken_away_names_who_needs_it(
    policy_node: Node, server: Workload, outsider: Namespace, tmp_path: Path
) -> None:
    cidrs, ports = f"[{outsider.ipv4}]", "['7111']"
    put(policy_node, exception("old", "INBOUND", cidrs=cidrs, ports=ports, expires="2099-01-01"), "old.yaml")
    assert is_served(outsider, server, 7111)
    empty = tmp_path / "old.yaml"
    empty.write_text("")
    refused = policy_node.cli("policy", "apply", empty)
    assert refused.status == 1
    assert f"{outsider.ipv4} -> shop/server:7111" in refused.stderr


def test_enrolled_clients_of_disable_are_not_cut_off_by_strict(
    policy_node: Node, client: Workload, server: Workload, tmp_path: Path
) -> None:
    put(policy_node, peer_authentication("mode", selector=SELECT_SERVER, mtls="{mode: DISABLE}"), "mode.yaml")
    assert is_served(client, server, 7112)
    strict = tmp_path / "mode.yaml"
    strict.write_text(peer_authentication("mode", selector=SELECT_SERVER, mtls="{mode: STRICT}"))
    changes = policy_node.ask("policy_simulate", files=[str(strict)])["changes"]
    assert {(c["before"], c["after"]) for c in changes if c["destination"] == "shop/server:7112"} == {
        ("none", "mutual_tls")
    }
    applied = policy_node.cli("policy", "apply", strict)
    assert client.ipv4 not in applied.stderr  # others came in plaintext in the tests before
    policy_node.cli("policy", "apply", strict, "--force").check()
    assert is_served(client, server, 7112)


def test_exception_ends_at_its_moment_also_for_what_is_open(
    policy_node: Node, server: Workload, outsider: Namespace
) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=3)
    text = exception("old", "INBOUND", cidrs=f"[{outsider.ipv4}]", expires=f"{ends:%Y-%m-%dT%H:%M:%SZ}")
    put(policy_node, text)
    since = policy_node.mark()
    with connected(outsider, server, port=7113) as (near, far):
        near.sendall(MARKER)
        assert receive_exactly(far, len(MARKER)) == MARKER
        near.settimeout(10)
        with pytest.raises(ConnectionResetError):
            near.recv(1)
    assert ends - timedelta(seconds=1) <= datetime.now(UTC) < ends + timedelta(seconds=CLOSED_WITHIN)
    record = policy_node.wait_for_record(lambda r: r["reason"] == "plaintext_refused", since=since)
    assert record["exception"] == "LegacyException shop/old"
    assert is_refused(policy_node, outsider, server, 7113)["reason"] == "plaintext_refused"


def test_refusal_is_explained_after_thousands_of_others_and_a_restart(
    policy_node: Node, client: Workload, server: Workload, outsider: Namespace, tmp_path: Path
) -> None:
    refused = is_refused(policy_node, outsider, server, 7114)
    assert is_served(client, server, 7115)
    with server.listen(socket.AF_INET, 7114) as listener:
        for _ in range(2100):
            with outsider.open_socket(socket.AF_INET) as near, contextlib.suppress(ConnectionResetError):
                near.setblocking(True)
                near.settimeout(10)
                near.connect(listener.getsockname()[:2])
                near.recv(1)

    def explained() -> dict[str, Any]:
        answer: dict[str, Any] = policy_node.ask("explain", connection=refused["id"])
        return answer

    wait_until(lambda: policy_node.ask("connections", limit=3000), "they are remembered")
    assert (explained()["verdict"], explained()["reason"]) == ("denial", "plaintext_refused")
    policy_node.kill(signal.SIGTERM)
    policy_node.up().check()
    answer = explained()
    assert (answer["verdict"], answer["reason"]) == ("denial", "plaintext_refused")
    assert any("mode in the configuration" in step["evidence"] for step in answer["steps"])
    deny = tmp_path / "deny.yaml"
    deny.write_text(authorization("deny", action="DENY", rules="[{to: [{operation: {ports: ['7115']}}]}]"))
    simulated = policy_node.ask("policy_simulate", files=[str(deny)])
    assert ("shop/client", "shop/server:7115", "mutual_tls", "policy_denied") in [
        (c["source"], c["destination"], c["before"], c["after"]) for c in simulated["changes"]
    ]
    assert simulated["not_remembered_before"] is None
    unknown = policy_node.cli("explain", "--connection", "0123456789abcdef")
    assert (unknown.status, unknown.stderr.count("\n")) == (2, 1)


def test_refusal_by_the_other_side_is_explained_from_its_record(
    policy_node: Node, client: Workload, server: Workload
) -> None:
    put(
        policy_node,
        authorization("deny", action="DENY", rules="[{}, {from: [{source: {namespaces: [shop]}}]}]"),
    )
    since = policy_node.mark()
    is_refused(policy_node, client, server, 7116)
    outbound = policy_node.wait_for_record(lambda r: r["reason"] == "denied_by_peer", since=since)
    answer = policy_node.ask("explain", connection=outbound["id"])
    assert (answer["verdict"], answer["reason"]) == ("denial", "policy_denied")
    texts = [step["evidence"] for step in answer["steps"]]
    assert "AuthorizationPolicy shop/deny (DENY) matches: rule 0: it has no conditions" in texts


def test_agent_that_comes_back_to_invalid_policies_denies_everything_until_they_are_repaired(
    make_node: Any,
) -> None:
    node: Node = make_node()
    first, second = node.workload("first"), node.workload("second")
    assert is_served(first, second)
    put(node, authorization("all", rules="[{}]"))
    node.kill()
    (node.policies_dir / "test.yaml").write_text("[")
    node.up().check()
    assert is_refused(node, first, second)["reason"] == "policy_pending"
    assert node.status()["state"] == "degraded"
    shutil.rmtree(node.policies_dir)
    wait_until(
        lambda: node.ask("policies")["error"] and "is gone" in node.ask("policies")["error"], "it is noticed"
    )
    assert is_refused(node, first, second)["reason"] == "policy_pending"
    node.policies_dir.mkdir()
    settled(node, 0)
    assert is_served(first, second)
