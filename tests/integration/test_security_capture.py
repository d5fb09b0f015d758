"""A workload that tries to get out of the mesh, or into another one, past the proxy.

The workload is root in its network namespace, with CAP_NET_ADMIN there.  Whatever it does, the other workload's
application sees it with its identity, through a tunnel, or not at all.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor.kernel import bpf_syscall
from interceptor.kernel.bpf_program import Variant, kept_prefix
from interceptor.kernel.mounts import find_cgroup2
from interceptor.kernel.older import OLDER_MAPS, is_older_kernel
from tests.harness.tcp import FAMILIES, connected, disconnect, family_id, serving
from tests.integration import uring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.namespace import Namespace, Workload
    from tests.harness.node import Node

pytestmark = [pytest.mark.netns, pytest.mark.bpf]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=family_id)

MARKER = b"marker of what must not leave: 91c2e0"
PORT = 7070
_SO_MARK = 36
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_MSG_FASTOPEN, _TCP_FASTOPEN_CONNECT = 0x20000000, 30
_IPPROTO_MPTCP = 262
RETURN_PATH_MARK = 0x15008


class Two:
    """A workload that attacks, one with an application that answers to what it gets, and the link between them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.mallory = node.workload("mallory")
        self.bob = node.workload("bob")
        self.received: list[bytes] = []

    def serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            data = sock.recv(4096)
            self.received.append(data)
            sock.sendall(data)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """The attempt runs inside: nothing in plaintext meanwhile, and whom the application saw was let in as mallory."""
        before = len(self.received)
        since = self.node.mark()
        with self.node.wire(self.mallory, self.bob, marker=MARKER, expect="anything") as wire:
            yield
        assert not wire.marker_seen, f"plaintext on the wire: {wire.marker_seen}"
        arrived = len(self.received) - before
        if arrived:
            admitted = self.node.wait_for_records(
                lambda r: r["direction"] == "inbound" and r["verdict"] == "permit", arrived, since=since
            )
            assert {r["source_identity"] for r in admitted} == {self.mallory.identity}
            assert {r["connection_security_policy"] for r in admitted} == {"mutual_tls"}


@pytest.fixture(scope="module")
def two(shared_node: Node) -> Iterator[Two]:
    two = Two(shared_node)
    with contextlib.ExitStack() as stack:
        for family in FAMILIES:
            stack.enter_context(serving(two.bob.listen(family, PORT), two.serve))
        yield two
    two.mallory.close()
    two.bob.close()


def _exchange(sock: socket.socket) -> bool:
    """Send the marker; whether it came back."""
    try:
        sock.sendall(MARKER)
        return sock.recv(4096) == MARKER
    except (ConnectionError, TimeoutError):
        return False


def _captured_then(option: Callable[[socket.socket], None]) -> Callable[[Two, int], bool]:
    def attempt(two: Two, family: int) -> bool:
        with two.mallory.open_socket(family) as sock:
            option(sock)
            sock.connect((two.bob.address(family), PORT))
            return _exchange(sock)

    return attempt


def _mark(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, RETURN_PATH_MARK)


def _transparent(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def _device(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")


def _fast_open(two: Two, family: int) -> bool:
    with two.mallory.open_socket(family) as sock:
        sock.setblocking(True)
        try:
            sock.sendto(MARKER, _MSG_FASTOPEN, (two.bob.address(family), PORT))
            return sock.recv(4096) == MARKER
        except ConnectionError:
            return False


def _reconnected(two: Two, family: int) -> bool:
    """First to somewhere that is not captured, then, with the same socket, to the other workload."""
    with two.mallory.listen(family) as own, two.mallory.open_socket(family) as sock:
        sock.connect(own.getsockname()[:2])
        disconnect(sock)
        sock.connect((two.bob.address(family), PORT))
        return _exchange(sock)


def _mapped(two: Two, family: int) -> bool:
    address = f"::ffff:{two.bob.ipv4}" if family == socket.AF_INET else two.bob.ipv6
    with two.mallory.open_socket(socket.AF_INET6) as sock:
        sock.connect((address, PORT))
        return _exchange(sock)


def _by_io_uring(two: Two, family: int) -> bool:
    with two.mallory.open_socket(family) as sock:
        sock.setblocking(True)
        assert uring.connect(sock, two.bob.address(family), PORT) == 0
        return _exchange(sock)


def _own_source(two: Two, family: int) -> bool:
    with two.mallory.open_socket(family) as sock:
        sock.bind((two.mallory.address(family), 0))
        sock.connect((two.bob.address(family), PORT))
        return _exchange(sock)


# These are captured like any other connection, and work.
CAPTURED: dict[str, Callable[[Two, int], bool]] = {
    "plain": _captured_then(lambda _: None),
    "mark": _captured_then(_mark),
    "transparent": _captured_then(_transparent),
    "bound-to-device": _captured_then(_device),
    "fast-open": _fast_open,
    "fast-open-connect": _captured_then(lambda s: s.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN_CONNECT, 1)),
    "reconnected": _reconnected,
    "ipv4-mapped": _mapped,
    "io-uring": _by_io_uring,
    "own-source-address": _own_source,
}


@each_family
@pytest.mark.parametrize("name", CAPTURED)
def test_connection_made_in_an_unusual_way_is_captured(two: Two, name: str, family: int) -> None:
    if name == "io-uring" and not uring.is_available():
        pytest.skip("no io_uring on this kernel")
    with two.watched():
        assert CAPTURED[name](two, family)


@each_family
def test_connection_from_another_workloads_address_gets_nowhere(two: Two, family: int) -> None:
    with two.watched(), two.mallory.open_socket(family, timeout=1) as sock:
        _transparent(sock)
        sock.bind((two.bob.address(family), 0))
        with contextlib.suppress(OSError):  # refused, or never answered
            sock.connect((two.bob.address(family), PORT))
            assert not _exchange(sock)


@each_family
def test_multipath_tcp_is_refused(two: Two, family: int) -> None:
    with pytest.raises(OSError, match=r"Protocol not (available|supported)|not permitted"):
        two.mallory.open_socket(family, proto=_IPPROTO_MPTCP)
    with two.mallory.netns.entered():
        if not Path("/proc/sys/net/mptcp/enabled").exists():
            return
        Path("/proc/sys/net/mptcp/enabled").write_text("1")  # as root in there may do
    try:
        with pytest.raises(PermissionError):
            two.mallory.open_socket(family, proto=_IPPROTO_MPTCP)
    finally:
        with two.mallory.netns.entered():
            Path("/proc/sys/net/mptcp/enabled").write_text("0")


def test_link_local_address_of_a_workload_is_refused(two: Two) -> None:
    link_local = _link_local(two.bob)
    since = two.node.mark()
    with two.watched(), two.mallory.open_socket(socket.AF_INET6) as sock:
        with two.mallory.netns.entered():
            scope = socket.if_nametoindex("eth0")
        with contextlib.suppress(ConnectionError):
            sock.connect((link_local, PORT, 0, scope))
            assert not _exchange(sock)
    two.node.wait_for_record(lambda r: r["reason"] == "link_local_destination", since=since)


def _link_local(workload: Workload) -> str:
    with workload.netns.entered():
        lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
    packed = next(line.split()[0] for line in lines if line.startswith("fe80"))
    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(packed))


_ATTEMPT = """
import os, socket, sys
address, port, marker, step = sys.argv[1:]
if step == "uid":
    os.setuid(65534)
elif step != "none":
    open(step, "w").write(str(os.getpid()))
sock = socket.create_connection((address, int(port)), 10)
sock.sendall(marker.encode())
assert sock.recv(4096) == marker.encode()
"""


def _agent_cgroup(node: Node) -> Path:
    lines = Path(f"/proc/{node.agent_pid}/cgroup").read_text().splitlines()
    path = next(line.removeprefix("0::/") for line in lines if line.startswith("0::"))
    return find_cgroup2() / path / "cgroup.procs"


@each_family
@pytest.mark.parametrize("step", ["uid", "agent's cgroup", "new cgroup"])
def test_process_of_another_user_or_cgroup_is_captured(two: Two, family: int, step: str) -> None:
    new = find_cgroup2() / f"{two.node.name}-escape"
    new.mkdir(exist_ok=True)
    steps = {
        "uid": "uid",
        "agent's cgroup": str(_agent_cgroup(two.node)),
        "new cgroup": str(new / "cgroup.procs"),
    }
    try:
        with two.watched():
            two.mallory.run(
                *(sys.executable, "-c", _ATTEMPT),
                *(two.bob.address(family), str(PORT), MARKER.decode(), steps[step]),
            ).check()
    finally:
        new.rmdir()


@each_family
def test_socket_from_before_the_enrolment_is_captured(shared_node: Node, two: Two, family: int) -> None:
    """The kernel asks at connect(2), not when the socket is made."""
    early = shared_node.plain_namespace(f"early{family_id(family)}")
    with early.open_socket(family) as sock:
        shared_node.enrolled_namespace(early.name, existing=early)
        with shared_node.wire(early, two.bob, marker=MARKER):
            sock.connect((two.bob.address(family), PORT))
            assert _exchange(sock)
        # A socket belongs to the namespace that it was made in, whoever holds it: passed to another, it stays there.
        assert sock.getsockopt(socket.SOL_SOCKET, 71, 8) == struct.pack("=Q", early.netns.cookie())
    shared_node.ask("withdraw", name=early.name)
    early.close()


@each_family
def test_multipath_socket_from_before_the_enrolment_sends_nothing_in_plaintext(
    shared_node: Node, two: Two, family: int
) -> None:
    """Whether the kernel asks at its connect(2) or not: it is captured, or has no connection."""
    early = shared_node.plain_namespace(f"multi{family_id(family)}")
    try:
        sock = early.open_socket(family, proto=_IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"no multipath TCP on this kernel: {error}")
    before = len(two.received)
    since = shared_node.mark()
    with sock:
        shared_node.enrolled_namespace(early.name, existing=early)
        with (
            shared_node.wire(early, two.bob, marker=MARKER, expect="anything") as wire,
            contextlib.suppress(ConnectionError),
        ):
            sock.connect((two.bob.address(family), PORT))
            _exchange(sock)
        assert not wire.marker_seen
    if len(two.received) > before:
        shared_node.wait_for_record(lambda r: r["source_identity"] == early.identity, since=since)
    shared_node.ask("withdraw", name=early.name)
    early.close()


@each_family
def test_established_connection_is_reset_by_the_enrolment(shared_node: Node, two: Two, family: int) -> None:
    early, other = (shared_node.plain_namespace(f"{n}{family_id(family)}") for n in ("first", "second"))
    with connected(early, other, family) as (near, far):
        near.sendall(b"before")
        assert far.recv(6) == b"before"
        shared_node.enrolled_namespace(early.name, existing=early)
        with pytest.raises(ConnectionError):
            near.recv(1)
    shared_node.ask("withdraw", name=early.name)
    early.close()
    other.close()


def _pass_socket(namespace: Namespace, family: int) -> socket.socket:
    """A socket that a process inside the namespace made, handed out by SCM_RIGHTS."""
    ours, theirs = socket.socketpair()
    code = (
        "import socket, sys; "
        f"s = socket.socket({family}); "
        f"socket.send_fds(socket.socket(fileno={theirs.fileno()}), [b'x'], [s.fileno()])"
    )
    with ours, theirs:
        subprocess.run(
            namespace.enter([sys.executable, "-c", code]),
            pass_fds=[theirs.fileno()],
            check=True,
            timeout=20,
        )
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    return socket.socket(fileno=fd)


@each_family
def test_socket_that_was_passed_on_is_the_namespaces_that_it_was_made_in(two: Two, family: int) -> None:
    with two.watched(), _pass_socket(two.mallory, family) as sock:
        sock.settimeout(10)
        sock.connect((two.bob.address(family), PORT))
        assert _exchange(sock)


# Inbound: somebody outside of the mesh.


@pytest.fixture(scope="module")
def outsider(shared_node: Node) -> Iterator[Namespace]:
    namespace = shared_node.plain_namespace("trudy")
    yield namespace
    namespace.close()


def _outside(
    option: Callable[[socket.socket], None], proto: int = 0
) -> Callable[[Namespace, Two, int], None]:
    def attempt(outsider: Namespace, two: Two, family: int) -> None:
        with outsider.open_socket(family, proto=proto, timeout=2) as sock:
            option(sock)
            sock.connect((two.bob.address(family), PORT))
            assert not _exchange(sock)

    return attempt


def _outside_fast_open(outsider: Namespace, two: Two, family: int) -> None:
    with outsider.open_socket(family) as sock:
        sock.setblocking(True)
        sock.sendto(MARKER, _MSG_FASTOPEN, (two.bob.address(family), PORT))
        assert sock.recv(4096) == b""


def _forged_source(outsider: Namespace, two: Two, family: int) -> None:
    """With the workload's own address as source: nothing comes back, so no connection comes about."""
    with outsider.open_socket(family, timeout=1) as sock:
        _transparent(sock)
        sock.bind((two.bob.address(family), 0))
        sock.connect((two.bob.address(family), PORT))
        assert not _exchange(sock)


def _to_link_local(outsider: Namespace, two: Two, family: int) -> None:
    del family
    with outsider.open_socket(socket.AF_INET6) as sock:
        with outsider.netns.entered():
            scope = socket.if_nametoindex("eth0")
        sock.connect((_link_local(two.bob), PORT, 0, scope))
        assert not _exchange(sock)


FROM_OUTSIDE: dict[str, Callable[[Namespace, Two, int], None]] = {
    "plain": _outside(lambda _: None),
    "mark": _outside(_mark),
    "low-port": _outside(lambda s: s.bind(("", 15001))),
    "multipath": _outside(lambda _: None, _IPPROTO_MPTCP),
    "fast-open": _outside_fast_open,
    "forged-source": _forged_source,
    "link-local": _to_link_local,
}


@each_family
@pytest.mark.parametrize("name", FROM_OUTSIDE)
def test_outsider_never_reaches_the_application(
    two: Two, outsider: Namespace, name: str, family: int
) -> None:
    before = len(two.received)
    with contextlib.suppress(OSError):
        FROM_OUTSIDE[name](outsider, two, family)
    assert len(two.received) == before


def _talk(outsider: Namespace, address: str) -> bytes:
    with outsider.connect((address, PORT)) as sock:
        sock.sendall(MARKER)
        return sock.recv(1)


@each_family
def test_reset_is_what_a_strict_workload_answers_to_plaintext(
    two: Two, outsider: Namespace, family: int
) -> None:
    since = two.node.mark()
    with pytest.raises(ConnectionError):
        _talk(outsider, two.bob.address(family))
    record = two.node.wait_for_record(lambda r: r["reason"] == "plaintext_refused", since=since)
    assert outsider.address(family) in record["source_address"]
    assert record["source_identity"] is None


def test_only_links_are_pinned_and_the_maps_that_say_what_waits(shared_node: Node, two: Two) -> None:
    """With the other maps at hand, a process could exempt its own sockets."""
    del two
    is_older = is_older_kernel()
    kept = {Path(f"{kept_prefix(shared_node.bpf_dir)}{name}") for name in Variant(is_older).kept_maps}
    made_up_for = {f"kept_{name}" for name in OLDER_MAPS} if is_older else set()
    assert {path.name for path in kept} == {"kept_connected_to", "kept_made_in", "kept_outside", *made_up_for}
    pins = set(shared_node.bpf_dir.iterdir())
    assert pins > kept
    for path in pins - kept:
        fd = bpf_syscall.open_pinned(path)
        kind = Path(f"/proc/self/fd/{fd}").readlink()
        os.close(fd)
        assert "link" in str(kind), path
