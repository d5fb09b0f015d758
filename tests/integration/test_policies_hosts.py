"""Policies between two hosts: each side decides with its own files, and selects the other's workloads by their labels."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.harness.authority import Authority
from tests.harness.fabric import fabric_of
from tests.harness.process import wait_until
from tests.policy.world import authorization, peer_authentication

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.fabric import FabricNode
    from tests.harness.namespace import Workload

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(90)]

MARKER = "what goes between two hosts"
PYTHON = "/usr/bin/python3"
TALKER = Path(__file__).parents[1] / "harness/talker.py"
PORT = 7000
# In a program of the workload's own: on these hosts, whose socket it is decides what is captured.
CLIENT = """
import socket, sys
address, port, marker, *stay = sys.argv[1:]
with socket.create_connection((address, int(port)), 10) as sock:
    try:
        sock.sendall(marker.encode())
        received = b""
        while len(received) < len(marker):
            data = sock.recv(100)
            if not data:
                break
            received += data
        print("answered" if received == marker.encode() else "ended", flush=True)
        if stay:
            sock.settimeout(30)
            sock.recv(1)
    except ConnectionResetError:
        print("reset", flush=True)
"""
DENY_SHOP = authorization("deny", action="DENY", rules="[{from: [{source: {namespaces: [shop]}}]}]")


class Pair(NamedTuple):
    """The client on one host, the server on another."""

    near: FabricNode
    far: FabricNode
    client: Workload
    server: Workload


@pytest.fixture(scope="module")
def pair(_swept: None) -> Iterator[Pair]:
    with fabric_of(2) as fabric:
        authority = Authority(fabric)
        authority.start()
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(authority.let_in, fabric.nodes))
            near, far = fabric.nodes
            client = near.workload("client", namespace="shop", labels={"app": "client"})
            server = far.workload("server", namespace="shop", labels={"app": "server"})
            server.spawn(PYTHON, TALKER, "serve", str(PORT), ready_port=PORT)
            for node, other in ((near, "server"), (far, "client")):
                hosts = node.run_dir / "hosts" / "shop"
                wait_until(
                    lambda hosts=hosts, other=other: f" {other}." in hosts.read_text(), f"{other} is known"
                )
            yield Pair(near, far, client, server)
        finally:
            for node in fabric.nodes:
                node.close_namespaces()
            authority.stop()


@pytest.fixture(autouse=True)
def _no_policies(pair: Pair) -> Iterator[None]:
    yield
    for node in (pair.near, pair.far):
        put(node, "")


def put(node: FabricNode, text: str) -> None:
    """Make this the node's only policies, and wait until they are in force."""
    node.policies_dir.mkdir(exist_ok=True)
    (node.policies_dir / "test.yaml").write_text(text)
    wait_until(
        lambda: len(node.ask("policies")["documents"]) == text.count("\nkind: "), "the policies are in force"
    )


def ask(pair: Pair, *arguments: str) -> str:
    """What CLIENT says after a question over a connection of its own."""
    return (
        pair.client.run(PYTHON, "-c", CLIENT, pair.server.ipv4, str(PORT), MARKER, *arguments).check().stdout
    )


def test_destination_denies_and_both_records_say_so(pair: Pair) -> None:
    assert ask(pair).split() == ["answered"]
    put(pair.far, DENY_SHOP)
    marks = pair.near.mark(), pair.far.mark()
    assert ask(pair).split() == ["reset"]
    there = pair.far.wait_for_record(lambda r: r["reason"], since=marks[1])
    assert (there["reason"], there["policy"]) == ("policy_denied", "AuthorizationPolicy shop/deny")
    assert there["source_identity"] == pair.client.identity
    here = pair.near.wait_for_record(lambda r: r["reason"], since=marks[0])
    assert here["reason"] == "denied_by_peer"


def test_live_connection_between_hosts_is_closed_when_the_destination_denies(pair: Pair) -> None:
    with pair.near.fabric.wire(MARKER.encode()):
        program = pair.client.spawn(PYTHON, "-c", CLIENT, pair.server.ipv4, str(PORT), MARKER, "stay")
        wait_until(lambda: "answered" in program.stdout, "the connection carries")
        put(pair.far, DENY_SHOP)
        wait_until(lambda: "reset" in program.stdout, "the connection is closed")


def test_mode_of_a_workload_on_another_host_is_known_by_its_labels(pair: Pair) -> None:
    text = peer_authentication("p", selector="{matchLabels: {app: server}}", mtls="{mode: DISABLE}")
    put(pair.near, text)
    put(pair.far, text)
    for expected in ("none", "mutual_tls"):
        since = pair.near.mark()
        assert ask(pair).split() == ["answered"]
        record = pair.near.wait_for_record(lambda r: r["direction"] == "outbound", since=since)
        assert record["connection_security_policy"] == expected
        put(pair.near, "")
