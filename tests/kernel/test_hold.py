"""What unknown network namespaces do: nothing that the mesh would have to protect, and nothing is lost by it.

The namespace `workload` of the scene is a pod's: its sockets are made in a cgroup below the guarded one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import select
import socket
import struct
import threading
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.agent import outside
from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel import abi, bpf_syscall, capture, netns, sockets
from interceptor.kernel.abi import OUTBOUND_PORT, Counter, ListenerSlot
from interceptor.kernel.bpf_program import GUARD_PROGRAMS
from interceptor.kernel.capture import Capture
from interceptor.kernel.hold import Hold, UnknownPolicy
from interceptor.kernel.mounts import find_cgroup2
from interceptor.workload import Endpoint
from tests.harness.cgroup import inside, made
from tests.kernel.scene import (
    ADDRESSES,
    BPF_DIR,
    DEADLINE_SECONDS,
    LOOPBACK,
    NEIGHBOUR,
    OUTSIDE,
    PREFIXES,
    WORKLOAD,
    Scene,
    families,
    join,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interceptor.kernel.bpf_program import Programs
    from interceptor.kernel.netns import NetworkNamespace

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(60)]

MSG_FASTOPEN = 0x20000000
HELD_SECONDS = 0.5  # longer than the first retransmission takes
SERVED_SECONDS = 2.0


@dataclass
class Pod(Scene):
    """The scene with its namespace `workload` unknown, and sockets of its own cgroup."""

    hold: Hold | None = None
    cgroup: Path | None = None

    def socket(
        self, namespace: NetworkNamespace, family: int, kind: int = socket.SOCK_STREAM
    ) -> socket.socket:
        assert self.cgroup is not None
        with inside(self.cgroup) if namespace is self.workload else contextlib.nullcontext():
            return super().socket(namespace, family, kind)

    def begin(self, family: int, address: str, port: int) -> socket.socket:
        """A connection under way, from the pod."""
        client = self.socket(self.workload, family)
        client.setblocking(False)
        assert client.connect_ex((address, port)) == errno.EINPROGRESS
        return client

    def enrol(self) -> None:
        self.open_listeners()
        self.capture.enrol(self.workload, self.cookie, ADDRESSES, self.inbound)

    def admit(self, cookie: int) -> None:
        assert self.hold is not None
        self.hold.admit_outside(cookie)

    def waiting(self) -> dict[int, tuple[int, int]]:
        assert self.hold is not None
        return {found.cookie: (found.cgroup_id, found.pid) for found in self.hold.waiting()}


@pytest.fixture
def pods() -> Iterator[Path]:
    with made(f"itest-pods-{os.getpid()}") as directory:
        yield directory


@pytest.fixture
def pod(make_namespace: Callable[[str], NetworkNamespace], programs: Programs, pods: Path) -> Iterator[Pod]:
    workload, neighbour = make_namespace("w"), make_namespace("n")
    join(workload, neighbour)
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(made(pods.name, "pod1"))
        capture_, hold = Capture(programs, BPF_DIR), Hold(programs, BPF_DIR)
        stack.callback(capture.release, BPF_DIR)
        pod = Pod(workload, neighbour, capture_, workload.cookie(), stack, hold=hold, cgroup=own)
        stack.callback(hold.retain, ())
        stack.callback(hold.forget, pod.cookie)
        stack.callback(capture_.withdraw, pod.cookie)
        stack.callback(capture_.set_prefixes, ())
        for old in hold.waiting():  # a packet of the last test's namespace, after that was forgotten
            hold.forget(old.cookie)
        capture_.set_prefixes(PREFIXES)
        capture_.activate(find_cgroup2())
        hold.guard([pods])
        yield pod


def is_connected(client: socket.socket, seconds: float) -> bool:
    _, writable, _ = select.select([], [client], [], seconds)
    return bool(writable) and client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def serve(pod: Pod, family: int, client: socket.socket, port: int = 80) -> None:
    """The proxy has a connection that was held, and was told where it was meant to go."""
    assert is_connected(client, SERVED_SECONDS)
    accepted = pod.accept(pod.outbound[family])
    assert sockets.original_destination(accepted) == Endpoint(ip_address(NEIGHBOUR[family]), port)
    assert client.getpeername()[:2] == (NEIGHBOUR[family], port)
    client.settimeout(DEADLINE_SECONDS)
    client.sendall(b"question")
    assert accepted.recv(100) == b"question"
    accepted.sendall(b"answer")
    assert client.recv(100) == b"answer"


def outside_listeners(pod: Pod) -> dict[ListenerSlot, socket.socket]:
    """Where the agent carries on what was held, in a namespace that is outside."""
    ipv4, ipv6 = (pod.listen(pod.workload, LOOPBACK[family]) for family in LOOPBACK)
    return {ListenerSlot.PLAINTEXT_IPV4: ipv4, ListenerSlot.PLAINTEXT_IPV6: ipv6}


def nobody_comes(*listening: socket.socket, seconds: float = 0) -> bool:
    return select.select(listening, [], [], seconds)[0] == []


# Outbound.


@families
def test_connection_of_an_unknown_namespace_waits_and_is_served_when_it_is_enrolled(
    pod: Pod, family: int
) -> None:
    far = pod.listen(pod.neighbour, NEIGHBOUR[family], 80)
    before = pod.count(Counter.HELD_CONNECTIONS)
    client = pod.begin(family, NEIGHBOUR[family], 80)
    assert not is_connected(client, HELD_SECONDS)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    pod.enrol()
    serve(pod, family, client)
    assert nobody_comes(far)
    assert pod.count(Counter.HELD_CONNECTIONS) == before + 1
    assert pod.capture.pending_flows() == 0
    pod.assert_captured(pod.connect(pod.workload, family, NEIGHBOUR[family], 80), NEIGHBOUR[family], 80)


def test_ipv4_mapped_connection_waits_too(pod: Pod) -> None:
    client = pod.begin(socket.AF_INET6, "::ffff:10.99.1.2", 80)
    assert not is_connected(client, 0.1)
    pod.enrol()
    assert is_connected(client, SERVED_SECONDS)
    accepted = pod.accept(pod.outbound[socket.AF_INET])
    assert sockets.original_destination(accepted) == Endpoint(ip_address("10.99.1.2"), 80)


def test_connections_that_waited_for_long_are_served_within_two_seconds(pod: Pod) -> None:
    """The kernel's own pauses would have grown to four seconds by then."""
    with (
        pod.workload.entered(),
        contextlib.suppress(FileNotFoundError),
    ):  # since Linux 6.5: they do not grow at once
        Path("/proc/sys/net/ipv4/tcp_syn_linear_timeouts").write_text("0")
    clients = {family: pod.begin(family, NEIGHBOUR[family], 80) for family in NEIGHBOUR}
    assert not is_connected(clients[socket.AF_INET], 3.2)
    pod.enrol()
    for family, client in clients.items():
        serve(pod, family, client)


@families
def test_socket_that_is_bound_to_a_link_waits_on_loopback(pod: Pod, family: int) -> None:
    client = pod.socket(pod.workload, family)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    client.setblocking(False)
    assert client.connect_ex((NEIGHBOUR[family], 80)) == errno.EINPROGRESS
    pod.enrol()
    serve(pod, family, client)


@families
@pytest.mark.parametrize("address", ["", "own"], ids=["port", "address-and-port"])
def test_socket_that_the_application_bound_waits_and_keeps_its_port(
    pod: Pod, family: int, address: str
) -> None:
    client = pod.socket(pod.workload, family)
    client.bind((WORKLOAD[family] if address else "", 40001))
    client.setblocking(False)
    assert client.connect_ex((NEIGHBOUR[family], 80)) == errno.EINPROGRESS
    pod.enrol()
    serve(pod, family, client)
    assert client.getsockname()[:2] == (WORKLOAD[family], 40001)


def test_connection_that_begins_with_data_waits(pod: Pod) -> None:
    """TCP Fast Open: sendto(2) connects, and the first packet may have data."""
    client = pod.socket(pod.workload, socket.AF_INET)
    client.setblocking(True)
    address = (NEIGHBOUR[socket.AF_INET], 80)
    thread = threading.Thread(target=client.sendto, args=(b"early", MSG_FASTOPEN, address))
    thread.start()
    thread.join(0.2)
    pod.enrol()
    accepted = pod.accept(pod.outbound[socket.AF_INET])
    thread.join()
    assert sockets.original_destination(accepted) == Endpoint(ip_address(address[0]), 80)
    assert accepted.recv(10) == b"early"


@families
def test_what_is_not_the_meshs_does_not_wait(pod: Pod, family: int) -> None:
    own = pod.listen(pod.workload, LOOPBACK[family])
    pod.assert_direct(pod.connect(pod.workload, family, LOOPBACK[family], own.getsockname()[1]), own)
    far = pod.listen(pod.neighbour, OUTSIDE[family])
    pod.assert_direct(pod.connect(pod.workload, family, OUTSIDE[family], far.getsockname()[1]), far)
    name_server = pod.socket(pod.neighbour, family, socket.SOCK_DGRAM)
    name_server.bind((NEIGHBOUR[family], 53))
    client = pod.socket(pod.workload, family, socket.SOCK_DGRAM)
    client.sendto(b"question", (NEIGHBOUR[family], 53))
    data, peer = name_server.recvfrom(100)
    name_server.sendto(data, peer)
    assert client.recv(100) == b"question"


@families
def test_what_is_not_the_meshs_waits_too_where_an_egress_policy_may_hold(pod: Pod, family: int) -> None:
    pod.capture.hold_everything(everything=True)
    pod.stack.callback(pod.capture.hold_everything, everything=False)
    far = pod.listen(pod.neighbour, OUTSIDE[family], 80)
    client = pod.begin(family, OUTSIDE[family], 80)
    assert not is_connected(client, HELD_SECONDS)
    pod.enrol()
    assert is_connected(client, SERVED_SECONDS)
    accepted = pod.accept(pod.outbound[family])
    assert sockets.original_destination(accepted) == Endpoint(ip_address(OUTSIDE[family]), 80)
    assert nobody_comes(far)
    pod.capture.hold_everything(everything=False)
    pod.capture.withdraw(pod.cookie)
    pod.assert_direct(pod.connect(pod.workload, family, OUTSIDE[family], 80), far)


@families
def test_process_that_is_in_no_pod_does_not_wait(pod: Pod, family: int) -> None:
    far = pod.listen(pod.neighbour, NEIGHBOUR[family])
    client = Scene.socket(pod, pod.workload, family)
    client.connect(far.getsockname()[:2])
    pod.assert_direct(client, far)
    assert pod.waiting() == {}


@families
def test_multipath_tcp_is_refused_while_it_is_unknown(pod: Pod, family: int) -> None:
    assert pod.cgroup is not None
    is_there = Path("/proc/sys/net/mptcp").exists()  # where it is not, nobody can have such a socket
    with inside(pod.cgroup), pytest.raises(PermissionError if is_there else OSError):
        pod.workload.open_socket(family, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
    if not is_there:
        return


@families
def test_socket_that_waited_in_vain_can_be_used_for_something_else(pod: Pod, family: int) -> None:
    client = pod.begin(family, NEIGHBOUR[family], 80)
    unspecified = bytes(28)
    assert ctypes.CDLL(None).connect(client.fileno(), unspecified, len(unspecified)) == 0
    own = pod.listen(pod.workload, LOOPBACK[family], OUTBOUND_PORT)
    client.setblocking(True)
    client.connect((LOOPBACK[family], OUTBOUND_PORT))
    pod.assert_direct(client, own)


# Outside.


@families
def test_connections_of_a_namespace_outside_pass_untouched(pod: Pod, family: int) -> None:
    pod.admit(pod.cookie)
    far = pod.listen(pod.neighbour, NEIGHBOUR[family])
    pod.assert_direct(pod.connect(pod.workload, family, NEIGHBOUR[family], far.getsockname()[1]), far)
    near = pod.listen(pod.workload, WORKLOAD[family])
    pod.assert_direct(pod.connect(pod.neighbour, family, WORKLOAD[family], near.getsockname()[1]), near)


@families
def test_connection_that_was_held_is_handed_over_when_its_namespace_is_outside(pod: Pod, family: int) -> None:
    """Whoever listens on the proxy's port in there does not get it."""
    assert pod.hold is not None
    pods_own = pod.listen(pod.workload, LOOPBACK[family], OUTBOUND_PORT)
    client = pod.begin(family, NEIGHBOUR[family], 80)
    listeners = outside_listeners(pod)
    pod.hold.steer_held(pod.workload, pod.cookie, listeners)
    pod.admit(pod.cookie)
    assert is_connected(client, SERVED_SECONDS)
    number = 4 if family == socket.AF_INET else 6
    accepted = pod.accept(listeners[ListenerSlot[f"PLAINTEXT_IPV{number}"]])
    assert sockets.original_destination(accepted) == Endpoint(ip_address(NEIGHBOUR[family]), 80)
    assert client.getpeername()[:2] == (NEIGHBOUR[family], 80)
    assert nobody_comes(pods_own)
    own = pod.connect(pod.workload, family, LOOPBACK[family], OUTBOUND_PORT)
    pod.assert_direct(own, pods_own)
    pod.hold.retain([pod.cookie])
    assert len(list(BPF_DIR.glob("held_*"))) == 1
    pod.hold.stop_steering(pod.cookie)
    pod.hold.stop_steering(pod.cookie)  # once more is no error
    assert list(BPF_DIR.glob("held_*")) == []


@families
def test_connection_that_was_held_is_refused_when_the_agent_died_before_it_was_carried_on(
    pod: Pod, family: int
) -> None:
    """Above all, it does not reach the program that has the proxy's port."""
    assert pod.hold is not None
    pods_own = pod.listen(pod.workload, LOOPBACK[family], OUTBOUND_PORT)
    client = pod.begin(family, NEIGHBOUR[family], 80)
    listeners = outside_listeners(pod)
    pod.hold.steer_held(pod.workload, pod.cookie, listeners)
    for listener in listeners.values():
        listener.close()
    pod.admit(pod.cookie)
    assert select.select([], [client], [], SERVED_SECONDS)[1]
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    assert nobody_comes(pods_own)


async def test_namespace_that_is_admitted_is_served_until_nothing_is_held_in_it(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pod.hold is not None
    monkeypatch.setattr(outside, "MAX_CARRIED", 1)
    admission = outside.Outside(pod.hold, DEADLINE_SECONDS)
    far = pod.listen(pod.neighbour, NEIGHBOUR[socket.AF_INET], 80)
    clients = [pod.begin(socket.AF_INET, NEIGHBOUR[socket.AF_INET], 80) for _ in range(2)]
    with trio.fail_after(DEADLINE_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(2):  # the second time, it is served already
                admission.admit(pod.workload, pod.cookie, nursery)
            accepted = await trio.to_thread.run_sync(pod.accept, far)
            ends = [client for client in clients if await is_reset_soon(client)]
            assert len(ends) == 1  # there was place for one
            carried = next(client for client in clients if client not in ends)
            accepted.sendall(b"answer")
            accepted.close()
            await trio.lowlevel.wait_readable(carried)
            assert carried.recv(100) == b"answer"
            carried.close()
    assert list(BPF_DIR.glob("held_*")) == []


async def is_reset_soon(client: socket.socket) -> bool:
    with trio.move_on_after(1):
        await trio.lowlevel.wait_readable(client)
        return True
    return False


async def test_namespace_is_admitted_at_once_where_nothing_is_guarded(pod: Pod) -> None:
    assert pod.hold is not None
    pod.hold.guard([])
    async with trio.open_nursery() as nursery:
        outside.Outside(pod.hold, DEADLINE_SECONDS).admit(pod.workload, pod.cookie, nursery)
        assert not nursery.child_tasks
    assert pod.hold._is_known(struct.pack("=Q", pod.cookie))


# Inbound.


@families
def test_connection_that_arrives_at_an_unknown_namespace_waits_and_is_steered_when_it_is_enrolled(
    pod: Pod, family: int
) -> None:
    near = pod.listen(pod.workload, WORKLOAD[family], 80)
    client = Scene.socket(pod, pod.neighbour, family)
    client.setblocking(False)
    before = pod.count(Counter.HELD_ARRIVALS)
    assert client.connect_ex((WORKLOAD[family], 80)) == errno.EINPROGRESS
    assert not is_connected(client, 0.2)
    assert pod.count(Counter.HELD_ARRIVALS) > before
    pod.enrol()
    assert is_connected(client, SERVED_SECONDS)
    number = 4 if family == socket.AF_INET else 6
    accepted = pod.accept(pod.inbound[ListenerSlot[f"PLAINTEXT_IPV{number}"]])
    assert accepted.getsockname()[:2] == (WORKLOAD[family], 80)
    assert nobody_comes(near)


@families
def test_connection_that_arrives_at_an_unknown_namespace_reaches_it_when_it_is_outside(
    pod: Pod, family: int
) -> None:
    near = pod.listen(pod.workload, WORKLOAD[family], 80)
    client = Scene.socket(pod, pod.neighbour, family)
    client.setblocking(False)
    assert client.connect_ex((WORKLOAD[family], 80)) == errno.EINPROGRESS
    assert not is_connected(client, 0.2)
    pod.admit(pod.cookie)
    assert is_connected(client, SERVED_SECONDS)
    pod.assert_direct(client, near)


@pytest.mark.parametrize("before", ["enrolled", "outside"])
def test_socket_from_when_its_namespace_was_known_takes_nothing_when_it_is_unknown_again(
    pod: Pod, before: str
) -> None:
    assert pod.hold is not None
    if before == "enrolled":
        pod.enrol()
        near = pod.listen(pod.workload, WORKLOAD[socket.AF_INET], 80)
        pod.capture.withdraw(pod.cookie)
    else:
        pod.admit(pod.cookie)
        near = pod.listen(pod.workload, WORKLOAD[socket.AF_INET], 80)
        pod.hold.forget(pod.cookie)
    client = Scene.socket(pod, pod.neighbour, socket.AF_INET)
    client.setblocking(False)
    assert client.connect_ex((WORKLOAD[socket.AF_INET], 80)) == errno.EINPROGRESS
    assert nobody_comes(near, seconds=0.2)
    pod.admit(pod.cookie)
    assert is_connected(client, SERVED_SECONDS)
    pod.assert_direct(client, near)


def test_nothing_arrives_in_plaintext_while_the_enrolment_is_under_way(pod: Pod) -> None:
    near = pod.listen(pod.workload, WORKLOAD[socket.AF_INET], 80)
    near.listen(4096)
    stop = threading.Event()
    begun: list[int] = []

    def connect_for_ever() -> None:
        while not stop.is_set():
            with pod.neighbour.open_socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                begun.append(client.connect_ex((WORKLOAD[socket.AF_INET], 80)))

    thread = threading.Thread(target=connect_for_ever)
    thread.start()
    try:
        for _ in range(10):
            wait_for_more(begun)
            pod.enrol()
            wait_for_more(begun)
            pod.close_listeners()
            pod.capture.withdraw(pod.cookie)
            assert nobody_comes(near)
    finally:
        stop.set()
        thread.join()


# Telling the agent.


def test_agent_is_told_of_a_namespace_once(pod: Pod) -> None:
    assert pod.hold is not None
    assert pod.cgroup is not None
    pod.hold.drain_events()
    for _ in range(3):
        pod.socket(pod.workload, socket.AF_INET, socket.SOCK_DGRAM)
    pod.begin(socket.AF_INET, NEIGHBOUR[socket.AF_INET], 80)
    assert select.select([pod.hold.events_fd], [], [], DEADLINE_SECONDS)[0]
    pod.hold.drain_events()
    assert not select.select([pod.hold.events_fd], [], [], HELD_SECONDS)[0]
    assert pod.waiting() == {pod.cookie: (pod.cgroup.stat().st_ino, os.getpid())}
    pod.admit(pod.cookie)
    assert pod.waiting() == {}
    assert bpf_syscall.map_keys(pod.capture._maps["waiting"], 8) == []


def test_namespace_whose_event_got_lost_is_found(pod: Pod) -> None:
    """Nobody reads the events, there are more than the ring holds, and all of them stand in the list."""
    assert pod.hold is not None
    fd = pod.capture._maps["waiting"]
    for _ in range(mmap.PAGESIZE // 16 + 1):
        pod.socket(pod.workload, socket.AF_INET).close()
        bpf_syscall.map_delete(fd, struct.pack("=Q", pod.cookie))
    pod.socket(pod.workload, socket.AF_INET).close()
    assert pod.cookie in pod.waiting()
    pod.hold.drain_events()
    bpf_syscall.map_delete(fd, struct.pack("=Q", pod.cookie))
    pod.socket(pod.workload, socket.AF_INET).close()
    assert select.select([pod.hold.events_fd], [], [], DEADLINE_SECONDS)[0]


def test_namespace_that_the_list_forgot_is_announced_by_its_next_packet(pod: Pod) -> None:
    assert pod.hold is not None
    client = pod.begin(socket.AF_INET, NEIGHBOUR[socket.AF_INET], 80)
    pod.hold.drain_events()
    bpf_syscall.map_delete(pod.capture._maps["waiting"], struct.pack("=Q", pod.cookie))
    assert not is_connected(client, 0)
    assert select.select([pod.hold.events_fd], [], [], SERVED_SECONDS)[0]
    assert pod.waiting() == {pod.cookie: (0, 0)}


def test_more_namespaces_outside_than_fit_are_an_error_and_go_on_waiting(pod: Pod) -> None:
    assert pod.hold is not None
    fd = pod.capture._maps["outside"]
    with contextlib.suppress(OSError):
        for number in range(1 << 40, (1 << 40) + abi.MAX_OUTSIDE):
            bpf_syscall.map_update(fd, struct.pack("=Q", number), b"\x01")
    with pytest.raises(EnrolmentError, match=f"at most {abi.MAX_OUTSIDE}.*goes on waiting"):
        pod.hold.admit_outside(pod.cookie)
    client = pod.begin(socket.AF_INET, NEIGHBOUR[socket.AF_INET], 80)
    assert not is_connected(client, 0.2)
    pod.hold.retain([])
    pod.hold.admit_outside(pod.cookie)
    with netns.current() as ours:
        assert not pod.hold._is_known(struct.pack("=Q", 1 << 40))
        assert pod.hold._is_known(struct.pack("=Q", ours.cookie()))


# Change of agents, and the end.


def test_what_was_held_before_the_agent_died_is_served_by_the_next_one(
    pod: Pod, next_programs: Programs
) -> None:
    clients = {family: pod.begin(family, address, 80) for family, address in NEIGHBOUR.items()}
    near = [pod.listen(pod.workload, address, 80) for address in WORKLOAD.values()]
    following, hold = next_agent(pod, next_programs)
    assert hold.is_guarding()
    for family, address in WORKLOAD.items():
        late = Scene.socket(pod, pod.neighbour, family)
        late.setblocking(False)
        assert late.connect_ex((address, 80)) == errno.EINPROGRESS
        assert not is_connected(
            late, 0.1
        )  # it knows the sockets that were made in the time of the last agent
        assert not is_connected(clients[family], 0.1)
    pod.open_listeners()
    following.enrol(pod.workload, pod.cookie, ADDRESSES, pod.inbound)
    for family, client in clients.items():
        serve(pod, family, client)
    assert nobody_comes(*near)


def test_next_agent_takes_over_without_letting_an_unknown_namespace_through(
    pod: Pod, next_programs: Programs
) -> None:
    far = pod.listen(pod.neighbour, NEIGHBOUR[socket.AF_INET], 80)
    stop = threading.Event()
    begun: list[int] = []

    def connect_for_ever() -> None:
        while not stop.is_set():
            with pod.workload.open_socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                begun.append(client.connect_ex((NEIGHBOUR[socket.AF_INET], 80)))
            stop.wait(0.002)

    assert pod.cgroup is not None
    with inside(pod.cgroup):
        thread = threading.Thread(target=connect_for_ever)
        thread.start()
        try:
            wait_for_more(begun)
            next_agent(pod, next_programs)
            wait_for_more(begun)
        finally:
            stop.set()
            thread.join()
    assert set(begun) == {errno.EINPROGRESS}
    assert nobody_comes(far)


def wait_for_more(begun: list[int]) -> None:
    enough, pause = len(begun) + 30, threading.Event()
    for _ in range(500):
        if len(begun) >= enough:
            return
        pause.wait(0.01)
    pytest.fail("no connections were begun")


def next_agent(pod: Pod, programs: Programs) -> tuple[Capture, Hold]:
    pod.stack.callback(Hold(programs, BPF_DIR).forget, pod.cookie)
    following, hold = Capture(programs, BPF_DIR), Hold(programs, BPF_DIR)
    following.set_prefixes(PREFIXES)
    following.activate(find_cgroup2())
    assert pod.cgroup is not None
    hold.guard([pod.cgroup.parent])
    return following, hold


def test_policy_that_lets_pass_only_tells_of_unknown_namespaces(pod: Pod, pods: Path) -> None:
    assert pod.hold is not None
    pod.hold.guard([pods], UnknownPolicy.PASS)
    far = pod.listen(pod.neighbour, NEIGHBOUR[socket.AF_INET], 80)
    client = pod.connect(pod.workload, socket.AF_INET, NEIGHBOUR[socket.AF_INET], 80)
    pod.assert_direct(client, far)
    assert pod.cookie in pod.waiting()
    pod.hold.guard([pods])
    assert not is_connected(pod.begin(socket.AF_INET, NEIGHBOUR[socket.AF_INET], 80), 0.2)


def test_guard_follows_a_cgroup_that_is_made_anew(pod: Pod) -> None:
    assert pod.hold is not None
    path = f"itest-again-{os.getpid()}"
    for _ in range(2):
        with made(path) as again:
            pod.hold.guard([again])
            pod.hold.guard([again])
            pod.cgroup = again
            assert not is_connected(pod.begin(socket.AF_INET, NEIGHBOUR[socket.AF_INET], 80), 0.1)
            assert len(list(BPF_DIR.glob("guard_*"))) == len(GUARD_PROGRAMS)
    pod.hold.guard([])
    assert not pod.hold.is_guarding()


def test_cgroups_that_cannot_be_guarded_are_refused_and_the_guard_stays(pod: Pod, pods: Path) -> None:
    assert pod.hold is not None
    with pytest.raises(KernelError, match=r"cannot open the pods' cgroup .*absent .*No such file"):
        pod.hold.guard([pods / "absent"])
    with pytest.raises(KernelError, match=f"pod1 is below .*{pods.name}: give only the upper one"):
        pod.hold.guard([pods, pods / "pod1"])
    assert not is_connected(pod.begin(socket.AF_INET, NEIGHBOUR[socket.AF_INET], 80), 0.2)


def test_what_a_dead_agent_steered_is_forgotten_with_its_namespace(pod: Pod) -> None:
    assert pod.hold is not None
    pod.hold.steer_held(pod.workload, pod.cookie, outside_listeners(pod))
    pod.hold.retain([])
    assert list(BPF_DIR.glob("held_*")) == []


def test_release_leaves_no_guard_and_no_kept_map(pod: Pod) -> None:
    assert pod.hold is not None
    pod.hold.steer_held(pod.workload, pod.cookie, outside_listeners(pod))
    capture.release(BPF_DIR)
    assert not BPF_DIR.exists()
    far = pod.listen(pod.neighbour, NEIGHBOUR[socket.AF_INET], 80)
    pause = threading.Event()
    for _ in range(500):  # the kernel lets go of them a moment later
        client = pod.socket(pod.workload, socket.AF_INET)
        if client.connect_ex((NEIGHBOUR[socket.AF_INET], 80)) == 0:
            break
        pause.wait(0.01)
    pod.assert_direct(client, far)
