"""Three hosts and one authority, leaves of twenty seconds, and traffic between the hosts all the time.

The roots and the intermediate are rotated, the authority goes away and comes back, one identity is revoked: not one
connection may fail but those of the revoked one. Then it goes away for longer than a certificate lives.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor.agent.kept_identity import KeptIdentity
from interceptor.agent.return_tokens import RETURN_FILE
from interceptor.kernel import netns as kernel_netns
from tests.harness.authority import PORT, Authority
from tests.harness.fabric import Fabric, fabric_of
from tests.harness.process import run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.fabric import FabricNode
    from tests.harness.namespace import Workload
    from tests.harness.process import Program
    from tests.harness.record_reader import Mark, Record

pytestmark = [pytest.mark.netns, pytest.mark.bpf]

LIFETIME_SECONDS = 20
MARKER = "marker-of-the-payload-7e41b0"
TALKER = Path(__file__).parents[1] / "harness/talker.py"
ECHO_PORT = 7000
PYTHON = "/usr/bin/python3"
VICTIM = "delta"


class Mesh:
    """The fabric, the authority, and four workloads: `alpha` on the first node, and so on, `delta` on the last."""

    def __init__(self, fabric: Fabric, authority: Authority) -> None:
        self.fabric = fabric
        self.authority = authority
        self.nodes = fabric.nodes
        names = {"alpha": 0, "beta": 1, "gamma": 2, VICTIM: 2}
        self.node_of: dict[str, FabricNode] = {name: self.nodes[number] for name, number in names.items()}
        self.workloads: dict[str, Workload] = {
            name: node.workload(name) for name, node in self.node_of.items()
        }
        for workload in self.workloads.values():
            workload.spawn(PYTHON, TALKER, "serve", str(ECHO_PORT), ready_port=ECHO_PORT)
        for name, node in self.node_of.items():
            others = [other for other in self.nodes if other is not node]
            for other in others:
                wait_until(
                    lambda other=other, name=name: (
                        f" {name}." in (other.run_dir / "hosts/default").read_text()
                    ),
                    f"{other.name} knows {name}",
                )

    def certificates(self) -> dict[str, dict[str, object]]:
        """Each workload's certificate, by the workload's name."""
        return {entry["workload"]: entry for node in self.nodes for entry in node.ask("certificates")}

    def renewed_since(self, before: dict[str, dict[str, object]], *, except_for: str = "") -> bool:
        """Whether every certificate is another one than then."""
        now = self.certificates()
        return all(
            now[name]["serial_number"] != before[name]["serial_number"] for name in now if name != except_for
        )

    def seconds_to_renewal(self) -> float:
        """Until the first of the certificates is due."""
        due = min(datetime.fromisoformat(str(entry["renew_at"])) for entry in self.certificates().values())
        return (due - datetime.now(UTC)).total_seconds()

    def errors(self) -> list[object]:
        """Why certificates could not be renewed."""
        return [entry["last_error"] for entry in self.certificates().values() if entry["last_error"]]

    def talk(self, kind: str, source: str, destination: str, interval: float) -> Talk:
        """Have one workload talk to another until it is stopped."""
        program = self.workloads[source].spawn(
            PYTHON, TALKER, kind, destination, str(ECHO_PORT), MARKER, str(interval)
        )
        return Talk(kind, source, destination, program)


class Talk:
    """One program that talks; `failures` and `good` are known when it was stopped."""

    def __init__(self, kind: str, source: str, destination: str, program: Program) -> None:
        self.kind, self.source = kind, source
        self.name = f"{kind} {source} to {destination}"
        self.has_victim = VICTIM in (source, destination)
        self.program = program
        self.good = 0

    def failures(self) -> list[dict[str, object]]:
        """What went wrong until now."""
        lines = [json.loads(line) for line in self.program.stdout.splitlines() if line.endswith("}")]
        return [line for line in lines if "error" in line]

    def stop(self) -> None:
        self.program.stop()
        (self.good,) = [
            json.loads(line)["good"] for line in self.program.stdout.splitlines() if "good" in line
        ]


@pytest.fixture(scope="module")
def mesh(_swept: None) -> Iterator[Mesh]:
    """Everything is up and knows of everything; the authority's service runs."""
    with fabric_of(3, lifetime=f"{LIFETIME_SECONDS}s") as fabric:
        authority = Authority(fabric)
        authority.start()
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(authority.let_in, fabric.nodes))
            yield Mesh(fabric, authority)
        finally:
            for node in fabric.nodes:
                node.close_namespaces()
            authority.stop()


@pytest.fixture
def talks(mesh: Mesh) -> Iterator[list[Talk]]:
    """Short connections several times a second and long ones, between workloads of different nodes."""
    pairs = (("alpha", "beta"), ("beta", "gamma"), ("gamma", "alpha"), ("alpha", VICTIM), (VICTIM, "beta"))
    talks = [mesh.talk("short", *pair, 0.25) for pair in pairs]
    talks += [mesh.talk("long", *pair, 0.25) for pair in pairs]
    yield talks
    for talk in talks:
        talk.program.stop()


@pytest.mark.timeout(150)
def test_rotations_an_outage_and_a_revocation_cost_only_the_connections_of_the_revoked(
    mesh: Mesh, talks: list[Talk]
) -> None:
    authority = mesh.authority
    marks = {node.name: node.mark() for node in mesh.nodes}
    with mesh.fabric.wire(MARKER.encode(), other_tls_ports=(PORT,)):
        # The root.
        old = authority.rotation()["active_root"]
        for step in ("prepare", "distribute", "activate", "retire"):
            authority.rotate(step)
        assert authority.rotation()["active_root"] != old
        assert len({node.status()["authority"]["trust_bundle"] for node in mesh.nodes}) == 1

        # The intermediate, and, while certificates of the new one are on their way, an outage.
        before = mesh.certificates()
        authority.cli("rotate", "intermediate").check()
        wait_until(lambda: mesh.seconds_to_renewal() < 0.5, "a renewal is about to come", LIFETIME_SECONDS)
        authority.stop()
        ends_at = time.monotonic() + LIFETIME_SECONDS / 3
        wait_until(lambda: mesh.errors(), "a renewal fails", LIFETIME_SECONDS / 3)
        time.sleep(max(ends_at - time.monotonic(), 0))
        authority.start()
        wait_until(lambda: mesh.renewed_since(before), "every certificate was renewed after the outage", 25)
        assert {entry["state"] for entry in mesh.certificates().values()} == {"valid"}
        assert [talk.name for talk in talks if talk.failures()] == []

        # A revocation.
        revoked_at = time.time()
        victim = mesh.workloads[VICTIM].identity
        authority.cli("revoke", victim, "--why", "laptop was stolen").check()
        for talk in talks:
            if talk.has_victim:
                wait_until(talk.failures, f"{talk.name} fails", 5)
        reached_in = time.time() - revoked_at
        # New ones fail too, and go on failing.
        counts = {talk.name: len(talk.failures()) for talk in talks if talk.has_victim}
        for talk in talks:
            if talk.has_victim:
                wait_until(
                    lambda talk=talk: len(talk.failures()) > counts[talk.name] + 2, f"{talk.name} fails"
                )
            talk.stop()
    assert reached_in < 5
    for talk in talks:
        assert talk.good > 20, talk.name
        if not talk.has_victim:
            assert talk.failures() == [], talk.name
    for talk in talks:
        if talk.kind == "short" and not talk.has_victim:
            node = mesh.node_of[talk.source]
            node.wait_for_records(_is_from(talk.source), talk.good, since=marks[node.name])
    _check_records(mesh, marks, victim)


def _is_from(source: str) -> Callable[[Record], bool]:
    return lambda record: (record["direction"], record["source_workload"]) == ("outbound", source)


def _check_records(mesh: Mesh, marks: dict[str, Mark], victim: str) -> None:
    """What the agents wrote of it: nothing but the revoked one's connections was refused, or cut off."""
    reasons: dict[str, set[object]] = {}
    for node in mesh.nodes:
        for record in node.records(marks[node.name]):
            ends = (record["source_workload"], record["destination_workload"])
            if VICTIM in ends or victim in (record["source_identity"], record["destination_identity"]):
                reasons.setdefault(node.name, set()).add(record["reason"])
            elif record["source_identity"] is None:
                reasons.setdefault("unproven", set()).add(record["reason"])
            else:
                assert record["reason"] is None, record
                assert record["close_kind"] == "fin", record
    first, second, third = (reasons[node.name] for node in mesh.nodes)
    assert "peer_revoked" in first | second
    assert "identity_revoked" in third
    assert reasons.get("unproven", set()) <= {"peer_revoked"}


@pytest.mark.timeout(120)
def test_outage_longer_than_certificates_live_is_refused_with_the_reason_and_over_by_itself(
    mesh: Mesh,
) -> None:
    node = mesh.node_of["alpha"]
    survivors = {name for name in mesh.workloads if name != VICTIM}
    mesh.authority.stop()

    def states() -> set[object]:
        return {entry["state"] for name, entry in mesh.certificates().items() if name in survivors}

    wait_until(
        lambda: mesh.certificates()["alpha"]["state"] == "late",
        "alpha's certificate is late",
        LIFETIME_SECONDS,
    )
    late = node.cli("status")
    assert late.status == 1
    assert "is past three quarters of its life and was not renewed: the authority" in late.stdout
    assert _readiness(node).startswith(
        "200 ready\nwarning: certificate of default/alpha is late: the authority"
    )
    wait_until(lambda: states() == {"expired"}, "every certificate has expired", LIFETIME_SECONDS + 5)
    assert _readiness(node).startswith("503 certificate of default/alpha is expired: the authority")
    mark = node.mark()
    assert _try_once(mesh, "alpha", "beta") != 0
    record = node.wait_for_record(lambda r: r["direction"] == "outbound", since=mark)
    assert record["reason"] == "certificate_missing", record
    assert "it expired at" in record["detail"]
    shown = node.cli("certificates").check().stdout
    assert "cannot be reached" in shown or "went away" in shown, shown
    assert "its certificate has expired" in node.cli("status").stdout

    mesh.authority.start()
    back_at = time.monotonic()
    wait_until(lambda: states() == {"valid"}, "every certificate is valid again", 15, poll=0.1)
    assert _try_once(mesh, "alpha", "beta") == 0
    assert _try_once(mesh, "beta", "gamma") == 0
    assert time.monotonic() - back_at < 15


@pytest.mark.timeout(60)
def test_agent_that_was_killed_goes_on_without_a_token(mesh: Mesh) -> None:
    node = mesh.node_of["alpha"]
    identity = node.status()["authority"]["node_certificate"]["identity"]
    assert identity == f"spiffe://cluster.local/node/{node.name}"
    again = node.cli("up", "--join-token", "it1.some.token")
    assert again.status == 1
    assert "runs already" in again.stderr
    node.kill()
    node.up().check()
    assert node.status()["authority"]["node_certificate"]["identity"] == identity
    wait_until(lambda: " beta." in (node.run_dir / "hosts/default").read_text(), "the others are known again")
    assert _try_once(mesh, "alpha", "beta") == 0
    assert _try_once(mesh, "beta", "alpha") == 0


@pytest.mark.timeout(60)
def test_agent_whose_keyring_is_empty_as_after_a_boot_comes_back_without_a_token(mesh: Mesh) -> None:
    node = mesh.node_of["alpha"]
    before = node.status()["authority"]["node_certificate"]
    copy = (node.state_dir / RETURN_FILE).read_bytes()
    node.kill()
    KeptIdentity(node.state_dir).forget()
    node.up().check()
    assert node.status()["authority"]["node_certificate"]["identity"] == before["identity"]
    assert (node.state_dir / RETURN_FILE).read_bytes() != copy
    assert (node.state_dir / RETURN_FILE).stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in b"".join(
        path.read_bytes() for path in node.state_dir.iterdir() if path.is_file()
    )
    wait_until(lambda: " beta." in (node.run_dir / "hosts/default").read_text(), "the others are known again")
    assert _try_once(mesh, "alpha", "beta") == 0
    assert _try_once(mesh, "beta", "alpha") == 0
    lines = [json.loads(line) for line in (mesh.authority.directory / "audit.jsonl").read_text().splitlines()]
    returned = [line for line in lines if line.get("by") == "return token"]
    assert {(line["event"], line["node"]) for line in returned} >= {
        ("begun", node.name),
        ("issued", node.name),
    }


def test_identity_that_a_node_may_not_have_is_refused_at_once_with_the_authoritys_word_for_it(
    mesh: Mesh,
) -> None:
    node = mesh.node_of["beta"]
    mesh.authority.cli("node", "allow", node.name, "--allow", "ns/default/sa/beta").check()
    try:
        refused = node.cli("run", "--service-account", "intruder", "--", "true")
    finally:
        mesh.authority.cli("node", "allow", node.name, "--allow", "ns/*/sa/*").check()
    assert refused.status == 1
    assert "identity_not_on_node: " in refused.stderr
    assert f"{node.name} may not have spiffe://cluster.local/ns/default/sa/intruder" in refused.stderr
    assert refused.seconds < 8
    assert [workload["name"] for workload in node.workloads()] == ["beta"]


def test_workload_of_another_node_is_explained_and_left_to_that_node(mesh: Mesh) -> None:
    node, other = mesh.node_of["alpha"], mesh.node_of["beta"]
    explained = node.cli("explain", "alpha", f"beta:{ECHO_PORT}").check().stdout
    assert f"default/beta is on node {other.name}: what its proxy decides can be asked there" in explained
    assert "permitted, by mutual TLS" in explained
    asked_here = node.cli("explain", "beta", f"alpha:{ECHO_PORT}")
    assert (asked_here.status, asked_here.stdout) == (1, "")
    assert f"default/beta runs on node {other.name}: ask there" in asked_here.stderr
    withdrawn = node.cli("withdraw", "beta")
    assert withdrawn.status == 1
    assert f"default/beta runs on node {other.name}: withdraw it there" in withdrawn.stderr


@pytest.mark.timeout(90)  # the last one: three nodes are taken down after it
def test_address_of_another_nodes_workload_is_nobodys_here(mesh: Mesh) -> None:
    node, beta = mesh.node_of["alpha"], mesh.workloads["beta"]
    path = node.directory / "netns" / "thief"
    with kernel_netns.create_named(path):
        try:
            for command in (
                "ip link add v0 type veth peer name v1",
                "ip link set v0 up",
                "ip link set v1 up",
                f"ip address add {beta.ipv4}/24 dev v0",
            ):
                run(["nsenter", f"--net={path}", "--", *command.split()]).check()
            refused = node.cli("enrol", "--netns", str(path), "--service-account", "thief")
        finally:
            kernel_netns.remove_named(path)
    assert refused.status == 1
    where = mesh.node_of["beta"].name
    assert f"its address {beta.ipv4} belongs to default/beta on node {where}" in refused.stderr


def _readiness(node: FabricNode) -> str:
    """Status and text of the readiness that a service manager looks at."""
    url = f"http://127.0.0.1:{node.slot.metrics_port}/ready"
    answer = run(node.enter(["curl", "-sS", "-w", "%{stderr}%{http_code}", url])).check()
    return f"{answer.stderr} {answer.stdout}"


def _try_once(mesh: Mesh, source: str, destination: str) -> int:
    """One connection; the exit status of the program that made it."""
    code = (
        "import socket, sys\n"
        f"s = socket.create_connection(({destination!r}, {ECHO_PORT}), 8)\n"
        f"s.sendall({MARKER.encode()!r})\n"
        f"sys.exit(s.recv(100) != {MARKER.encode()!r})\n"
    )
    return mesh.workloads[source].run(PYTHON, "-c", code).status
