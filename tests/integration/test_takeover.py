"""An agent that stops, dies or hangs: nothing passes in plaintext meanwhile, and the next one takes over."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest

from interceptor.errors import AgentError
from interceptor.kernel import netns as kernel_netns
from tests.harness.process import has_let_go, wait_until
from tests.harness.tcp import FAMILIES, connected, echo, receive_exactly, serving
from tests.integration.traces import existing, lock_holder, pinned_links, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.namespace import Namespace
    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf, pytest.mark.timeout(120)]

MARKER = b"marker of nobody's business: 5d20fa"
PORT = 7060
REFUSED_WITHIN = 1.0  # seconds: it need not wait for anything


class Mesh:
    """Workloads of each kind, and others, with an echo on each one's PORT."""

    def __init__(self, node: Node, stack: contextlib.ExitStack) -> None:
        self.node = node
        self.run = node.workload("made-by-run")
        self.other = node.workload("other")
        self.named = node.enrolled_namespace("by-name")
        self.by_pid = node.plain_namespace("by-pid")
        program = self.by_pid.spawn("sleep", "infinity")
        wait_until(lambda: program.pid in self.by_pid.netns.processes(), "the program is inside")
        node.ask(
            "enrol",
            netns=None,
            pid=program.pid,
            service_account="by-pid",
            namespace="default",
            name="by-pid",
        )
        self.insider = node.plain_namespace("plain")  # an address of the mesh, but nobody's
        self.outsider = node.plain_namespace("outside", inside=False)
        self.workloads: list[Namespace] = [self.run, self.other, self.named, self.by_pid]
        for workload in self.workloads:
            node.reach(workload)
        for namespace in (*self.workloads, self.insider, self.outsider):
            for family in FAMILIES:
                stack.enter_context(serving(namespace.listen(family, PORT), _echo_until_reset))

    def assert_connected(self) -> None:
        """Every workload reaches every other one."""
        for source in self.workloads:
            for destination in self.workloads:
                if source is not destination:
                    for family in FAMILIES:
                        assert _exchange(source, destination, family), (source, destination, family)

    def assert_cut_off(self) -> None:
        """No workload reaches anybody in the mesh, and nobody reaches a workload; the rest goes on."""
        links = (*self.workloads, self.insider)
        with self.node.wire(*links, marker=MARKER, expect="anything") as wire:
            for family in FAMILIES:
                for source, destination in (
                    (self.run, self.other),
                    (self.other, self.named),
                    (self.named, self.by_pid),
                    (self.by_pid, self.run),
                    (self.run, self.insider),
                    (self.named, self.insider),
                    (self.insider, self.run),
                    (self.insider, self.by_pid),
                ):
                    started = time.monotonic()
                    with pytest.raises(ConnectionRefusedError):
                        source.connect((destination.address(family), PORT)).close()
                    assert time.monotonic() - started < REFUSED_WITHIN
        assert not wire.marker_seen
        assert wire.tcp_payload_bytes == 0
        for workload in self.workloads:
            for family in FAMILIES:
                assert _exchange(workload, workload, family)
                assert _exchange(workload, self.outsider, family)

    def assert_known(self, *names: str) -> None:
        assert {entry["name"] for entry in self.node.workloads()} == set(names)


def _echo_until_reset(sock: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):  # as connections of a killed agent are
        echo(sock)


def _exchange(source: Namespace, destination: Namespace, family: int) -> bool:
    with source.connect((destination.address(family), PORT)) as sock:
        sock.sendall(MARKER)
        return sock.recv(4096) == MARKER


@pytest.fixture
def mesh(node: Node) -> Iterator[Mesh]:
    with contextlib.ExitStack() as stack:
        yield Mesh(node, stack)


ALL = ("made-by-run", "other", "by-name", "by-pid")


def test_agent_that_hangs_or_is_killed_cuts_off_and_the_next_one_takes_over(mesh: Mesh) -> None:
    node = mesh.node
    mesh.assert_connected()
    with contextlib.ExitStack() as stack:
        _hang(mesh, stack)
    before = pinned_links(node)
    with connected(mesh.run, mesh.other) as (near, far):
        near.sendall(b"a part")
        assert receive_exactly(far, 6) == b"a part"
        node.kill(signal.SIGKILL)
        near.settimeout(5)
        far.settimeout(5)
        for sock in (near, far):
            with pytest.raises(ConnectionResetError):  # an end would say that it was complete
                sock.recv(1)
    mesh.assert_cut_off()
    assert pinned_links(node) == before

    node.up().check()
    mesh.assert_known(*ALL)
    mesh.assert_connected()
    after = pinned_links(node)
    # The same links with other programs: nothing is attached twice.
    assert {name: link for name, (link, _) in after.items()} == {n: link for n, (link, _) in before.items()}
    programs = {program for _, program in before.values()}
    assert not programs & {program for _, program in after.values()}
    wait_until(lambda: existing(programs, set()) == (set(), set()), "the old programs are gone")
    assert {workload["state"] for workload in node.workloads()} == {"ready"}


def _hang(mesh: Mesh, stack: contextlib.ExitStack) -> None:
    """A stopped process still has its listeners, so connections come about: nothing moves on them, and then all does."""
    pid = mesh.node.agent_pid
    with mesh.node.wire(mesh.run, mesh.other, mesh.insider, marker=MARKER, expect="anything") as wire:
        os.kill(pid, signal.SIGSTOP)
        try:
            waiting = stack.enter_context(mesh.run.connect((mesh.other.ipv4, PORT)))
            waiting.sendall(MARKER)
            plain = stack.enter_context(mesh.insider.connect((mesh.run.ipv4, PORT), timeout=0.3))
            with pytest.raises(TimeoutError):
                plain.recv(1)
            assert wire.tcp_payload_bytes == 0
        finally:
            os.kill(pid, signal.SIGCONT)
        assert waiting.recv(4096) == MARKER
    assert not wire.marker_seen


@dataclass(frozen=True, slots=True)
class Attempt:
    """One connection of an application, from connect(2) on."""

    began: float
    outcome: Literal["carried", "ended", "reset", "refused"]


def _attempt(source: Namespace, destination: Namespace, family: int) -> Attempt:
    began = time.monotonic()
    try:
        with source.connect((destination.address(family), PORT)) as sock:
            sock.sendall(MARKER)
            return Attempt(began, "carried" if sock.recv(4096) else "ended")
    except ConnectionRefusedError:
        return Attempt(began, "refused")
    except (ConnectionResetError, BrokenPipeError):
        return Attempt(began, "reset")


def test_connections_made_while_the_agent_dies_are_refused_or_reset_and_carry_nothing(mesh: Mesh) -> None:
    """The kernel closes a dying process's sockets one after the other: some listeners outlive it by milliseconds.

    What connects in that time is in a queue that nobody serves: connect(2) succeeds, and then comes a reset.
    """
    pid = mesh.node.agent_pid
    pairs = ((mesh.run, mesh.other), (mesh.named, mesh.by_pid), (mesh.other, mesh.insider))
    attempts: dict[tuple[Namespace, Namespace, int], list[Attempt]] = {
        (source, destination, family): [] for source, destination in pairs for family in FAMILIES
    }
    stop = threading.Event()

    def keep_connecting(source: Namespace, destination: Namespace, family: int) -> None:
        made = attempts[source, destination, family]
        while not stop.is_set():
            made.append(_attempt(source, destination, family))

    def all_tried_since(moment: float) -> bool:
        return all(made and made[-1].began > moment for made in attempts.values())

    with (
        mesh.node.wire(*mesh.workloads, mesh.insider, marker=MARKER),
        concurrent.futures.ThreadPoolExecutor(len(attempts)) as threads,
    ):
        clients = [threads.submit(keep_connecting, *key) for key in attempts]
        try:
            started = time.monotonic()
            wait_until(lambda: all_tried_since(started), "everybody connects")
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            wait_until(lambda: has_let_go(pid), "the agent has ended")
            gone = time.monotonic()
            wait_until(lambda: all_tried_since(gone), "everybody has connected since")
        finally:
            stop.set()
        for client in clients:
            client.result()
    everything = [attempt for made in attempts.values() for attempt in made]
    assert {a.outcome for a in everything if a.began > killed} <= {"refused", "reset"}
    assert {a.outcome for a in everything if a.began > gone} == {"refused"}


def test_stopped_agent_cuts_off_and_what_ended_meanwhile_is_forgotten(mesh: Mesh) -> None:
    node = mesh.node
    node.kill(signal.SIGTERM)
    assert "stay captured" in node.log()
    mesh.assert_cut_off()
    # One ends, and another is replaced by a new namespace of the same name, which has nothing to do with it.
    mesh.by_pid.stop_programs()
    kernel_netns.remove_named(mesh.by_pid.netns_path)
    inode = mesh.named.netns.inode
    kernel_netns.remove_named(mesh.named.netns_path)
    ended = [mesh.by_pid, mesh.named]
    for namespace in ended:
        namespace.netns.close()
    with kernel_netns.create_named(mesh.named.netns_path) as replacement:
        assert mesh.other.holder.stop() == 128 + signal.SIGTERM  # type: ignore[attr-defined]
        node.up().check()
        mesh.assert_known("made-by-run")
        with replacement.entered():
            assert not [p for p in (15001, 15006, 15008) if _listens(p)], (
                f"inode {inode} was taken for another"
            )
    assert len([name for name in pinned_links(node) if name.startswith("inbound")]) == 1
    kernel_netns.remove_named(mesh.named.netns_path)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_port_taken_while_the_agent_was_away_cuts_that_workload_off(mesh: Mesh) -> None:
    """A program that sits on the proxy's port gets no workload's connections, and does not stop the others.

    Addresses that somebody takes meanwhile stay with their owners, also with the one that is cut off.
    """
    node = mesh.node
    node.kill(signal.SIGKILL)
    wait_until(lambda: lock_holder(node) is None, "its last thread has ended")
    _steal(mesh)
    with mesh.named.open_socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", 15006))
        squatter.listen()
        node.up().check()
        entry = next(w for w in node.workloads() if w["name"] == "by-name")
        assert entry["state"] == "cut_off"
        assert "port 15006 is taken" in entry["problems"][0]
        assert _exchange(mesh.run, mesh.other, socket.AF_INET6)
        for source, destination in ((mesh.insider, mesh.named), (mesh.named, mesh.insider)):
            with pytest.raises(ConnectionError):
                _exchange(source, destination, socket.AF_INET)
        with pytest.raises(ConnectionError):  # the capture's own listener is not there
            mesh.named.connect((mesh.run.ipv4, PORT)).close()
        with pytest.raises(AgentError, match="could not be taken over"):
            node.ask(
                "enrol",
                netns=str(mesh.named.netns_path),
                pid=None,
                service_account="x",
                namespace="default",
                name="x",
            )
    wait_until(
        lambda: {w["state"] for w in node.workloads()} == {"ready"}, "it is taken over once the port is free"
    )
    _assert_nothing_was_stolen(mesh)


def _steal(mesh: Mesh) -> None:
    """Both kinds of thieves are taken over before their victims, by their names."""
    mesh.run.add_address(f"{mesh.named.ipv4}/32")
    mesh.by_pid.add_address(f"{mesh.other.ipv4}/32")
    mesh.by_pid.add_address(f"{mesh.node.slot.bridge_ipv4.ip}/32")
    mesh.by_pid.add_address("192.0.2.53/32")


def _assert_nothing_was_stolen(mesh: Mesh) -> None:
    owners = {"made-by-run": mesh.run, "by-pid": mesh.by_pid, "by-name": mesh.named, "other": mesh.other}
    assert {entry["name"]: entry["addresses"] for entry in mesh.node.workloads()} == {
        name: [owner.ipv4, owner.ipv6] for name, owner in owners.items()
    }


def _start_agent(node: Node) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*node.command(), "agent"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_agent_killed_at_any_step_of_its_start_leaves_what_the_next_can_use(
    make_node: Callable[..., Node],
) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    node = make_node(start=False)
    namespace = node.plain_namespace("blue")
    untouched = settings(namespace)
    node.up().check()
    node.enrolled_namespace("blue", existing=namespace)
    node.kill()
    for _ in range(3):
        agent = _start_agent(node)
        delay = chance.uniform(0.2, 2.0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            agent.wait(delay)
            raise AssertionError(f"seed {seed}: the agent ended by itself: {node.log()[-2000:]}")
        agent.kill()
        agent.wait()
        wait_until(lambda: lock_holder(node) is None, "the compiler's process has gone, too")
        with pytest.raises(ConnectionRefusedError):
            namespace.connect((str(node.slot.mesh_ipv4[77]), 80)).close()
    node.up().check()
    assert [w["state"] for w in node.workloads()] == ["ready"], f"seed {seed}"
    node.kill()
    agent = _start_agent(node)
    time.sleep(chance.uniform(0.2, 2.0))  # at an unknown step, that is the point
    agent.kill()
    agent.wait()
    node.down().check()
    assert settings(namespace) == untouched, f"seed {seed}"


def test_agent_killed_at_any_step_of_an_enrolment_leaves_what_the_next_can_use(node: Node) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    namespace = node.plain_namespace("blue")
    untouched = settings(namespace)
    for round_number in range(3):
        pid = node.agent_pid
        enrolling = threading.Thread(target=_enrol_in_vain, args=(node, namespace))
        enrolling.start()
        time.sleep(chance.uniform(0, 0.06))
        os.kill(pid, signal.SIGKILL)
        enrolling.join()
        wait_until(lambda: lock_holder(node) is None, "the agent has gone")
        if round_number % 2:
            node.down().check()
            assert settings(namespace) == untouched, f"seed {seed}"
        node.up().check()
        assert [w["state"] for w in node.workloads()] in ([], ["ready"]), f"seed {seed}"
        if node.workloads():
            node.ask("withdraw", name="blue")
        assert settings(namespace) == untouched, f"seed {seed}, round {round_number}"


def _enrol_in_vain(node: Node, namespace: Namespace) -> None:
    with contextlib.suppress(AgentError):
        node.ask(
            "enrol",
            netns=str(namespace.netns_path),
            pid=None,
            service_account="blue",
            namespace="default",
            name="blue",
        )


def test_agent_killed_while_runs_begin_leaves_nothing_in_their_way(node: Node) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    for _ in range(2):
        pid = node.agent_pid
        starting = subprocess.Popen(
            [*node.command(), "run", "--service-account", "brief", "--name", "brief", "--", "sleep", "60"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.35 + chance.uniform(0, 0.2))
        os.kill(pid, signal.SIGKILL)
        starting.terminate()
        starting.wait(20)
        wait_until(lambda: lock_holder(node) is None, "the agent has gone")
        node.up().check()
        result = node.cli("run", "--service-account", "brief", "--name", "brief", "--", "true")
        assert result.status == 0, f"seed {seed}: {result.stderr}"


def test_namespace_of_a_run_that_was_never_written_down_is_removed_by_the_next_agent(node: Node) -> None:
    kept = node.workload("kept")
    node.kill()
    left = node.run_dir / "netns" / "default.brief"
    kernel_netns.create_named(left).close()
    node.up().check()
    assert not left.exists()
    assert [w["name"] for w in node.workloads() if w["state"] == "ready"] == ["kept"]
    assert kept.netns_path.exists()
    node.cli("run", "--service-account", "brief", "--name", "brief", "--", "true").check()
