"""The BPF programs in the kernel, between two network namespaces, without an agent.

`workload` is enrolled; the test holds the listeners that its proxy would hold.
`neighbour` is a namespace at the other end of a link, and in no mesh.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import threading
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from interceptor.errors import EnrolmentError
from interceptor.kernel import abi, bpf_syscall, capture, sockets
from interceptor.kernel.abi import (
    INBOUND_PLAINTEXT_PORT,
    INBOUND_TUNNEL_PORT,
    MAX_LOCAL_ADDRESSES,
    OUTBOUND_PORT,
    Counter,
    ListenerSlot,
)
from interceptor.kernel.bpf_program import CGROUP_PROGRAMS
from interceptor.kernel.capture import Capture
from interceptor.kernel.mounts import find_cgroup2
from interceptor.kernel.older import OLDER_PROGRAMS
from interceptor.kernel.return_path import install_return_path
from interceptor.workload import Endpoint
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

IPPROTO_MPTCP = 262
MSG_FASTOPEN = 0x20000000
TCP_LAST_ACK = "09"  # as /proc/net/tcp shows it


@pytest.fixture
def scene(make_namespace: Callable[[str], NetworkNamespace], programs: Programs) -> Iterator[Scene]:
    workload, neighbour = make_namespace("w"), make_namespace("n")
    join(workload, neighbour)
    with contextlib.ExitStack() as stack:
        capture_ = Capture(programs, BPF_DIR)
        stack.callback(capture.release, BPF_DIR)
        scene = Scene(workload, neighbour, capture_, workload.cookie(), stack)
        stack.callback(capture_.withdraw, scene.cookie)
        stack.callback(capture_.set_prefixes, ())
        scene.open_listeners()
        capture_.set_prefixes(PREFIXES)
        capture_.enrol(workload, scene.cookie, ADDRESSES, scene.inbound)
        capture_.activate(find_cgroup2())
        yield scene


# Outbound.


@families
def test_connection_into_the_mesh_is_captured_unnoticed(scene: Scene, family: int) -> None:
    counter = Counter.CAPTURED_IPV4 if family == socket.AF_INET else Counter.CAPTURED_IPV6
    before = scene.count(counter)
    client = scene.connect(scene.workload, family, NEIGHBOUR[family], 80)
    assert client.getsockname()[0] == WORKLOAD[family]
    scene.assert_captured(client, NEIGHBOUR[family], 80)
    assert scene.count(counter) == before + 1
    assert scene.capture.pending_flows() == 0


def test_ipv4_mapped_destination_of_an_ipv6_socket_is_captured(scene: Scene) -> None:
    client = scene.connect(scene.workload, socket.AF_INET6, "::ffff:10.99.1.2", 80)
    scene.assert_captured(client, "::ffff:10.99.1.2", 80)


@families
@pytest.mark.parametrize("port", [0, 40001])
def test_address_that_the_application_bound_is_kept(scene: Scene, family: int, port: int) -> None:
    client = scene.socket(scene.workload, family)
    client.bind((WORKLOAD[family], port))
    bound = client.getsockname()
    client.connect((NEIGHBOUR[family], 80))
    assert client.getsockname() == bound
    scene.assert_captured(client, NEIGHBOUR[family], 80)


@families
def test_port_that_the_application_bound_is_kept_and_the_address_is_the_workloads(
    scene: Scene, family: int
) -> None:
    client = scene.socket(scene.workload, family)
    client.bind(("", 40002))
    client.connect((NEIGHBOUR[family], 80))
    assert client.getsockname()[:2] == (WORKLOAD[family], 40002)
    accepted = scene.accept(scene.outbound[family])
    assert sockets.original_destination(accepted) == Endpoint(ip_address(NEIGHBOUR[family]), 80)


def test_port_that_an_ipv6_socket_bound_shows_a_mapped_address(scene: Scene) -> None:
    client = scene.socket(scene.workload, socket.AF_INET6)
    client.bind(("", 40003))
    client.connect((f"::ffff:{NEIGHBOUR[socket.AF_INET]}", 80))
    assert client.getsockname()[:2] == (f"::ffff:{WORKLOAD[socket.AF_INET]}", 40003)


@families
def test_socket_that_is_bound_to_a_link_is_captured(scene: Scene, family: int) -> None:
    client = scene.socket(scene.workload, family)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
    client.connect((NEIGHBOUR[family], 80))
    scene.assert_captured(client, NEIGHBOUR[family], 80)


@families
def test_socket_that_an_unprivileged_program_bound_to_a_link_never_leaves_by_it(
    scene: Scene, family: int
) -> None:
    """By the link, even 127.0.0.1 would be looked for at the neighbour's."""
    client = scene.socket(scene.workload, family)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setresuid(65534, 65534, 65534)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
            client.settimeout(DEADLINE_SECONDS)
            client.connect((NEIGHBOUR[family], 80))
            status = 0
        except PermissionError:
            status = 2
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 2)
    if status == 0:
        scene.assert_captured(client, NEIGHBOUR[family], 80)


@families
def test_connection_that_begins_with_data_is_captured(scene: Scene, family: int) -> None:
    """TCP Fast Open: sendto(2) connects."""
    client = scene.socket(scene.workload, family)
    client.setblocking(True)  # or it would return before the data are under way
    client.sendto(b"early", MSG_FASTOPEN, (NEIGHBOUR[family], 80))
    accepted = scene.accept(scene.outbound[family])
    assert sockets.original_destination(accepted) == Endpoint(ip_address(NEIGHBOUR[family]), 80)
    assert accepted.recv(10) == b"early"


@families
def test_nonblocking_connection_is_captured(scene: Scene, family: int) -> None:
    client = scene.socket(scene.workload, family)
    client.setblocking(False)
    assert client.connect_ex((NEIGHBOUR[family], 80)) in (0, errno.EINPROGRESS)
    accepted = scene.accept(scene.outbound[family])
    assert sockets.original_destination(accepted) == Endpoint(ip_address(NEIGHBOUR[family]), 80)


@families
def test_own_addresses_and_loopback_are_left_alone(scene: Scene, family: int) -> None:
    for address in (WORKLOAD[family], LOOPBACK[family]):
        own = scene.listen(scene.workload, address)
        scene.assert_direct(scene.connect(scene.workload, family, address, own.getsockname()[1]), own)


@families
def test_destination_outside_of_the_mesh_is_left_alone(scene: Scene, family: int) -> None:
    far = scene.listen(scene.neighbour, OUTSIDE[family])
    scene.assert_direct(scene.connect(scene.workload, family, OUTSIDE[family], far.getsockname()[1]), far)


@families
def test_namespace_that_is_not_enrolled_is_left_alone(scene: Scene, family: int) -> None:
    own = scene.listen(scene.neighbour, NEIGHBOUR[family])
    port = own.getsockname()[1]
    scene.assert_direct(scene.connect(scene.neighbour, family, NEIGHBOUR[family], port), own)


@families
def test_exempted_socket_is_left_alone(scene: Scene, family: int) -> None:
    far = scene.listen(scene.neighbour, NEIGHBOUR[family])
    client = scene.socket(scene.workload, family)
    scene.capture.exempt(client)
    client.connect(far.getsockname()[:2])
    scene.assert_direct(client, far)


@pytest.mark.parametrize("option", [socket.SO_MARK])
def test_mark_of_the_proxy_exempts_nobody(scene: Scene, option: int) -> None:
    client = scene.socket(scene.workload, socket.AF_INET)
    client.setsockopt(socket.SOL_SOCKET, option, abi.RETURN_PATH_MARK)
    client.connect((NEIGHBOUR[socket.AF_INET], 80))
    scene.assert_captured(client, NEIGHBOUR[socket.AF_INET], 80)


@families
def test_prefixes_take_effect_at_once(scene: Scene, family: int) -> None:
    wider = ip_network(f"{OUTSIDE[family]}/{32 if family == socket.AF_INET else 128}")
    far = scene.listen(scene.neighbour, OUTSIDE[family])
    port = far.getsockname()[1]
    for _ in range(2):
        scene.capture.set_prefixes(PREFIXES | {wider})
        client = scene.connect(scene.workload, family, OUTSIDE[family], port)
        scene.assert_captured(client, OUTSIDE[family], port)
        scene.capture.set_prefixes(PREFIXES)
        scene.assert_direct(scene.connect(scene.workload, family, OUTSIDE[family], port), far)


@families
def test_everything_is_captured_where_an_egress_policy_holds(scene: Scene, family: int) -> None:
    far = scene.listen(scene.neighbour, OUTSIDE[family])
    port = far.getsockname()[1]
    for _ in range(2):
        scene.capture.capture_everything(scene.cookie, everything=True)
        scene.capture.set_addresses(scene.cookie, ADDRESSES)  # and it stays so when addresses change
        client = scene.connect(scene.workload, family, OUTSIDE[family], port)
        scene.assert_captured(client, OUTSIDE[family], port)
        for address in (WORKLOAD[family], LOOPBACK[family]):
            own = scene.listen(scene.workload, address)
            scene.assert_direct(scene.connect(scene.workload, family, address, own.getsockname()[1]), own)
        scene.capture.capture_everything(scene.cookie, everything=False)
        scene.assert_direct(scene.connect(scene.workload, family, OUTSIDE[family], port), far)


def test_everything_of_the_other_family_and_kind_is_captured_or_left_alone(scene: Scene) -> None:
    scene.capture.capture_everything(scene.cookie, everything=True)
    client = scene.connect(scene.workload, socket.AF_INET6, "::ffff:192.0.2.2", 80)
    scene.assert_captured(client, "::ffff:192.0.2.2", 80)
    scene.assert_captured(
        scene.connect(scene.workload, socket.AF_INET, "169.254.169.254", 80), "169.254.169.254", 80
    )
    far = scene.listen(scene.neighbour, OUTSIDE[socket.AF_INET])
    proxy = scene.socket(scene.workload, socket.AF_INET)
    scene.capture.exempt(proxy)
    proxy.connect(far.getsockname())
    scene.assert_direct(proxy, far)
    name_server = scene.socket(scene.neighbour, socket.AF_INET, socket.SOCK_DGRAM)
    name_server.bind((OUTSIDE[socket.AF_INET], 53))
    asking = scene.socket(scene.workload, socket.AF_INET, socket.SOCK_DGRAM)
    asking.connect((OUTSIDE[socket.AF_INET], 53))
    asking.send(b"question")
    assert name_server.recv(100) == b"question"


def test_everything_stays_captured_without_anybody_who_serves_it(scene: Scene) -> None:
    scene.close_listeners()
    scene.capture.hold(scene.cookie, everything=True)
    scene.listen(scene.neighbour, OUTSIDE[socket.AF_INET], 7777)
    with pytest.raises(ConnectionRefusedError):
        scene.connect(scene.workload, socket.AF_INET, OUTSIDE[socket.AF_INET], 7777)
    scene.capture.withdraw(scene.cookie)
    scene.connect(scene.workload, socket.AF_INET, OUTSIDE[socket.AF_INET], 7777)


@families
def test_socket_that_is_connected_again_forgets_where_it_was(scene: Scene, family: int) -> None:
    far = scene.listen(scene.neighbour, OUTSIDE[family])
    client = scene.socket(scene.workload, family)
    client.connect((NEIGHBOUR[family], 80))
    scene.assert_captured(client, NEIGHBOUR[family], 80)
    unspecified = bytes(28)
    assert ctypes.CDLL(None).connect(client.fileno(), unspecified, len(unspecified)) == 0
    client.connect(far.getsockname()[:2])
    scene.assert_direct(client, far)


@families
def test_connection_to_the_proxys_own_port_has_no_destination(scene: Scene, family: int) -> None:
    scene.connect(scene.workload, family, LOOPBACK[family], OUTBOUND_PORT)
    assert sockets.original_destination(scene.accept(scene.outbound[family])) is None


@families
def test_udp_is_left_alone(scene: Scene, family: int) -> None:
    far = scene.socket(scene.neighbour, family, socket.SOCK_DGRAM)
    far.bind((NEIGHBOUR[family], 0))
    near = scene.socket(scene.workload, family, socket.SOCK_DGRAM)
    near.connect(far.getsockname()[:2])
    assert near.getpeername()[:2] == far.getsockname()[:2]
    near.send(b"question")
    data, peer = far.recvfrom(100)
    assert (data, peer[:2]) == (b"question", near.getsockname()[:2])
    far.sendto(b"answer", peer)
    assert near.recv(100) == b"answer"


@families
def test_multipath_tcp_is_refused_to_workloads_only(scene: Scene, family: int) -> None:
    if not Path("/proc/sys/net/mptcp").exists():  # a kernel without it: nobody can have such a socket
        with pytest.raises(OSError, match="Protocol not supported"):
            scene.workload.open_socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP)
        return
    before = scene.count(Counter.REFUSED_MPTCP)
    with pytest.raises(PermissionError):
        scene.workload.open_socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP)
    assert scene.count(Counter.REFUSED_MPTCP) == before + 1
    scene.neighbour.open_socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP).close()


@families
def test_connection_is_refused_at_once_when_nobody_listens(scene: Scene, family: int) -> None:
    far = scene.listen(scene.neighbour, NEIGHBOUR[family], 80)
    scene.close_listeners()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            scene.connect(scene.workload, family, NEIGHBOUR[family], 80)
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.accept()
    assert scene.capture.pending_flows() == 0


def test_flows_leave_nothing_behind(scene: Scene) -> None:
    for number in range(200):
        family = (socket.AF_INET, socket.AF_INET6)[number % 2]
        with scene.workload.open_socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(DEADLINE_SECONDS)
            client.connect((NEIGHBOUR[family], 80))
            accepted, _ = scene.outbound[family].accept()
            with accepted:
                assert sockets.original_destination(accepted) is not None
    assert scene.capture.pending_flows() == 0


@families
def test_connection_that_the_application_ends_first_is_gone_at_once(scene: Scene, family: int) -> None:
    """The last acknowledgement has no socket any more and finds its way all the same (see return_path)."""
    install_return_path(scene.workload)
    client = scene.connect(scene.workload, family, NEIGHBOUR[family], 80)
    accepted = scene.accept(scene.outbound[family])
    client.close()
    assert accepted.recv(1) == b""
    accepted.close()
    states = set()
    for _ in range(100):
        with scene.workload.entered():
            lines = Path(f"/proc/thread-self/net/tcp{'6' if family == socket.AF_INET6 else ''}").read_text()
        states = {line.split()[3] for line in lines.splitlines()[1:]}
        if TCP_LAST_ACK not in states:
            break
        threading.Event().wait(0.01)
    assert TCP_LAST_ACK not in states


def test_withdrawn_workload_is_left_alone(scene: Scene) -> None:
    assert scene.capture.is_enrolled(scene.cookie)
    scene.capture.withdraw(scene.cookie)
    assert not scene.capture.is_enrolled(scene.cookie)
    scene.capture.withdraw(scene.cookie)  # once more is no error
    for family, address in NEIGHBOUR.items():
        far = scene.listen(scene.neighbour, address)
        scene.assert_direct(scene.connect(scene.workload, family, address, far.getsockname()[1]), far)
        near = scene.listen(scene.workload, WORKLOAD[family])
        scene.assert_direct(
            scene.connect(scene.neighbour, family, WORKLOAD[family], near.getsockname()[1]), near
        )


def test_workload_that_is_held_is_refused_everything(scene: Scene) -> None:
    scene.capture.withdraw(scene.cookie)
    scene.close_listeners()
    scene.capture.hold(scene.cookie)
    for family, address in NEIGHBOUR.items():
        far = scene.listen(scene.neighbour, address)
        with pytest.raises(ConnectionRefusedError):
            scene.connect(scene.workload, family, address, far.getsockname()[1])


def test_addresses_follow_the_workload(scene: Scene) -> None:
    """An address that it gave up is somebody else's: captured from then on."""
    address = "10.99.1.77"
    with scene.workload.entered(), IPRoute() as route:
        index = route.link_lookup(ifname="eth0")[0]
        route.addr("add", index=index, address=address, prefixlen=24)
    own = scene.listen(scene.workload, address)
    port = own.getsockname()[1]
    scene.capture.set_addresses(scene.cookie, (*ADDRESSES, ip_address(address)))
    scene.assert_direct(scene.connect(scene.workload, socket.AF_INET, address, port), own)
    scene.capture.set_addresses(scene.cookie, ADDRESSES)
    scene.assert_captured(scene.connect(scene.workload, socket.AF_INET, address, port), address, port)


def test_more_addresses_than_fit_are_an_error_and_let_nothing_through(scene: Scene) -> None:
    many = tuple(ip_address(f"10.99.{number // 250 + 2}.{number % 250 + 1}") for number in range(400))
    for _ in range(2):
        with pytest.raises(EnrolmentError, match=str(MAX_LOCAL_ADDRESSES)):
            scene.capture.set_addresses(scene.cookie, (*ADDRESSES, *many))
    client = scene.connect(scene.workload, socket.AF_INET, NEIGHBOUR[socket.AF_INET], 80)
    scene.assert_captured(client, NEIGHBOUR[socket.AF_INET], 80)
    scene.capture.set_addresses(scene.cookie, ADDRESSES)
    client = scene.connect(scene.workload, socket.AF_INET, str(many[0]), 80)
    scene.assert_captured(client, str(many[0]), 80)


# Inbound.


@families
@pytest.mark.parametrize("port", [1, 80, 15001, INBOUND_PLAINTEXT_PORT, 65535])
def test_connection_that_arrives_is_steered_to_the_plaintext_listener(
    scene: Scene, family: int, port: int
) -> None:
    own = scene.listen(scene.workload, WORKLOAD[family], port)
    number = 4 if family == socket.AF_INET else 6
    before = scene.count(Counter.STEERED_PLAINTEXT)
    client = scene.connect(scene.neighbour, family, WORKLOAD[family], port)
    accepted = scene.accept(scene.inbound[ListenerSlot[f"PLAINTEXT_IPV{number}"]])
    assert accepted.getsockname()[:2] == (WORKLOAD[family], port)
    assert accepted.getpeername()[:2] == client.getsockname()[:2]
    assert scene.count(Counter.STEERED_PLAINTEXT) == before + 1
    own.setblocking(False)
    with pytest.raises(BlockingIOError):
        own.accept()


@families
def test_tunnel_that_arrives_is_steered_to_the_tunnel_listener(scene: Scene, family: int) -> None:
    number = 4 if family == socket.AF_INET else 6
    before = scene.count(Counter.STEERED_TUNNEL)
    scene.connect(scene.neighbour, family, WORKLOAD[family], INBOUND_TUNNEL_PORT)
    accepted = scene.accept(scene.inbound[ListenerSlot[f"TUNNEL_IPV{number}"]])
    assert accepted.getsockname()[:2] == (WORKLOAD[family], INBOUND_TUNNEL_PORT)
    assert scene.count(Counter.STEERED_TUNNEL) == before + 1


@families
@pytest.mark.parametrize("port", [80, INBOUND_TUNNEL_PORT])
def test_what_arrives_is_refused_when_nobody_listens(scene: Scene, family: int, port: int) -> None:
    """Above all, it does not reach the application."""
    scene.close_listeners()
    own = scene.listen(scene.workload, WORKLOAD[family], port)
    before = scene.count(Counter.REFUSED_NO_LISTENER)
    with pytest.raises(ConnectionRefusedError):
        scene.connect(scene.neighbour, family, WORKLOAD[family], port)
    assert scene.count(Counter.REFUSED_NO_LISTENER) > before
    own.setblocking(False)
    with pytest.raises(BlockingIOError):
        own.accept()


@families
def test_udp_that_arrives_is_left_alone(scene: Scene, family: int) -> None:
    near = scene.socket(scene.workload, family, socket.SOCK_DGRAM)
    near.bind((WORKLOAD[family], 0))
    far = scene.socket(scene.neighbour, family, socket.SOCK_DGRAM)
    far.sendto(b"x", near.getsockname()[:2])
    assert near.recv(10) == b"x"


# Change of agents, and the end.


def program_exists(number: int) -> bool:
    try:
        bpf_syscall.program_name(number)
    except FileNotFoundError:
        return False
    return True


def program_ids(fds: list[int]) -> list[int]:
    ids = []
    for fd in fds:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        ids += [int(line.split()[1]) for line in lines if line.startswith("prog_id:")]
    return ids


def test_next_agent_takes_over_without_a_gap(scene: Scene, load: Callable[[Path | None], Programs]) -> None:
    """While connections are made without pause, none reaches the neighbour, none is refused."""
    far = scene.listen(scene.neighbour, NEIGHBOUR[socket.AF_INET], 80)
    far.setblocking(False)
    stop = threading.Event()
    failures: list[OSError] = []
    made = 0

    def connect_for_ever() -> None:
        nonlocal made
        while not stop.is_set():
            try:
                with scene.workload.open_socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                    client.settimeout(DEADLINE_SECONDS)
                    client.connect((NEIGHBOUR[socket.AF_INET], 80))
                    made += 1
                    accepted, _ = scene.outbound[socket.AF_INET].accept()
                    accepted.close()
            except OSError as error:
                failures.append(error)
                return

    thread = threading.Thread(target=connect_for_ever)
    thread.start()
    try:
        following = Capture(load(BPF_DIR), BPF_DIR)
        following.set_prefixes(PREFIXES)
        following.note_listeners(scene.cookie, scene.outbound.values())
        following.enrol(scene.workload, scene.cookie, ADDRESSES, scene.inbound)
        following.activate(find_cgroup2())
        before = made
        while made < before + 50 and thread.is_alive():
            stop.wait(0.01)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    with pytest.raises(BlockingIOError):
        far.accept()
    # It is the new programs that count now.
    counted = following.counters()[Counter.CAPTURED_IPV4]
    client = scene.connect(scene.workload, socket.AF_INET, NEIGHBOUR[socket.AF_INET], 80)
    scene.assert_captured(client, NEIGHBOUR[socket.AF_INET], 80)
    assert following.counters()[Counter.CAPTURED_IPV4] == counted + 1
    following.withdraw(scene.cookie)
    following.close()


def test_capture_outlives_the_agent(scene: Scene, programs: Programs) -> None:
    """Only the pins hold the programs: as after SIGKILL, without the descriptors."""
    assert capture.is_attached(BPF_DIR)
    assert list(capture.pinned_inbound(BPF_DIR)) == [scene.cookie]
    scene.close_listeners()
    for family, address in NEIGHBOUR.items():
        with pytest.raises(ConnectionRefusedError):
            scene.connect(scene.workload, family, address, 80)
        with pytest.raises(ConnectionRefusedError):
            scene.connect(scene.neighbour, family, WORKLOAD[family], 80)


def test_links_of_namespaces_that_are_gone_are_removed(scene: Scene) -> None:
    scene.capture.forget_others([scene.cookie])
    assert list(capture.pinned_inbound(BPF_DIR)) == [scene.cookie]
    scene.capture.forget_others([])
    assert capture.pinned_inbound(BPF_DIR) == {}


def test_release_leaves_no_program_and_no_pin_behind(
    scene: Scene, load: Callable[[Path | None], Programs]
) -> None:
    capture.release(BPF_DIR)
    assert not BPF_DIR.exists()
    own = load(None)
    attached = [name for name in (*CGROUP_PROGRAMS, *OLDER_PROGRAMS) if name in own.programs]
    numbers = program_ids([own.programs[name] for name in attached])
    assert len(numbers) == len(attached)
    ours = Capture(own, BPF_DIR)
    ours.set_prefixes(PREFIXES)
    ours.enrol(scene.workload, scene.cookie, ADDRESSES, scene.inbound)
    ours.activate(find_cgroup2())
    ours.close()
    assert all(program_exists(number) for number in numbers)
    assert capture.release(BPF_DIR) == len(attached) + 1
    assert not BPF_DIR.exists()
    assert capture.release(BPF_DIR) == 0
    deadline = threading.Event()
    for _ in range(500):  # the kernel frees them a moment later
        if not any(program_exists(number) for number in numbers):
            break
        deadline.wait(0.01)
    assert not any(program_exists(number) for number in numbers)
    for family, address in NEIGHBOUR.items():
        far = scene.listen(scene.neighbour, address)
        scene.assert_direct(scene.connect(scene.workload, family, address, far.getsockname()[1]), far)


def test_enrolment_leaves_no_descriptor_behind(scene: Scene) -> None:
    scene.capture.withdraw(scene.cookie)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        scene.capture.enrol(scene.workload, scene.cookie, ADDRESSES, scene.inbound)
        scene.capture.withdraw(scene.cookie)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
