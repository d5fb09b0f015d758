"""What kernels before Linux 5.17 run: everything of `test_capture`, and what their programs find out by themselves.

Newer kernels can run it, too.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from interceptor.kernel import bpf_syscall, older, sockets
from interceptor.kernel.abi import OUTBOUND_PORT, Counter, Ends, address_bytes
from interceptor.kernel.pinned import _map_id
from interceptor.kernel.return_path import install_return_path
from tests.kernel.scene import LOOPBACK, NEIGHBOUR, WORKLOAD, Scene, families
from tests.kernel.test_capture import *  # noqa: F403

if TYPE_CHECKING:
    from interceptor.kernel.bpf_program import Programs

IS_OLDER = True

PORT = 45678
NO_OPERATIONS = bytes([1, 1, 1, 1])  # IP options (RFC 791)
PADDING = bytes([0, 0, 1, 4, 0, 0, 0, 0])  # an extension header with one option, PadN (RFC 8200)
IPV6_HOPOPTS, IPV6_DSTOPTS = 54, 59


def ends(client: str, client_port: int, target: str, target_port: int) -> bytes:
    addresses = address_bytes(ip_address(client)) + address_bytes(ip_address(target))
    return addresses + struct.pack("=HH4x", client_port, target_port)


def relayed(programs: Programs) -> list[bytes]:
    return bpf_syscall.map_keys(programs.maps["relayed"], len(bytes(Ends())))


def proxy_socket(scene: Scene, family: int) -> socket.socket:
    """As the proxy connects to an application: from its client's address."""
    proxy = scene.socket(scene.workload, family)
    scene.capture.exempt(proxy)
    sockets.make_transparent(proxy)
    proxy.bind((NEIGHBOUR[family], 0))
    return proxy


@families
def test_proxy_reaches_the_application_as_its_client(scene: Scene, programs: Programs, family: int) -> None:
    install_return_path(scene.workload)
    application = scene.listen(scene.workload, WORKLOAD[family], 80)
    proxy = proxy_socket(scene, family)
    proxy.connect((WORKLOAD[family], 80))
    accepted = scene.accept(application)
    assert accepted.getpeername()[:2] == proxy.getsockname()[:2]
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
    assert relayed(programs) == [ends(*proxy.getsockname()[:2], WORKLOAD[family], 80)]
    abort(proxy)
    assert relayed(programs) == []


@families
def test_proxys_connection_that_is_refused_leaves_nothing_behind(
    scene: Scene, programs: Programs, family: int
) -> None:
    install_return_path(scene.workload)
    with pytest.raises(ConnectionRefusedError):
        proxy_socket(scene, family).connect((WORKLOAD[family], 80))
    assert relayed(programs) == []


@families
def test_application_cannot_pass_for_the_proxy(scene: Scene, programs: Programs, family: int) -> None:
    """Whatever it may set on its socket."""
    install_return_path(scene.workload)
    scene.listen(scene.workload, WORKLOAD[family], 80)
    forger = scene.socket(scene.workload, family)
    sockets.make_transparent(forger)
    forger.bind((NEIGHBOUR[family], 0))
    with contextlib.suppress(OSError):
        forger.connect((WORKLOAD[family], 80))
    assert relayed(programs) == []


@pytest.mark.parametrize(
    ("family", "header"),
    [
        (socket.AF_INET, None),
        (socket.AF_INET, (socket.IPPROTO_IP, socket.IP_OPTIONS, NO_OPERATIONS)),
        (socket.AF_INET6, None),
        (socket.AF_INET6, (socket.IPPROTO_IPV6, IPV6_HOPOPTS, PADDING)),
        (socket.AF_INET6, (socket.IPPROTO_IPV6, IPV6_DSTOPTS, PADDING)),
    ],
)
@pytest.mark.parametrize("address", [WORKLOAD, {socket.AF_INET: "::", socket.AF_INET6: "::"}])
def test_stranger_with_the_ends_of_the_proxys_connection_does_not_reach_the_application(
    scene: Scene,
    programs: Programs,
    family: int,
    header: tuple[int, int, bytes] | None,
    address: dict[int, str],
) -> None:
    application = scene.listen(scene.workload, address[family], 80, both=True)
    bpf_syscall.map_update(
        programs.maps["relayed"], ends(NEIGHBOUR[family], PORT, WORKLOAD[family], 80), b"\x01"
    )
    stranger = scene.socket(scene.neighbour, family)
    if header is not None:
        stranger.setsockopt(*header)
    stranger.bind((NEIGHBOUR[family], PORT))
    stranger.settimeout(0.3)
    before = scene.count(Counter.REFUSED_DISGUISED)
    with pytest.raises(TimeoutError):
        stranger.connect((WORKLOAD[family], 80))
    assert scene.count(Counter.REFUSED_DISGUISED) > before
    application.setblocking(False)
    with pytest.raises(BlockingIOError):
        application.accept()


@families
def test_connection_at_a_listener_that_nobody_noted_has_no_destination(scene: Scene, family: int) -> None:
    scene.outbound[family].close()
    unknown = scene.listen(scene.workload, LOOPBACK[family], OUTBOUND_PORT)
    scene.connect(scene.workload, family, NEIGHBOUR[family], 80)
    assert sockets.original_destination(scene.accept(unknown)) is None


def test_next_agents_programs_know_the_connections_of_the_last(
    programs: Programs, next_programs: Programs
) -> None:
    for name in older.OLDER_MAPS:
        assert _map_id(next_programs.maps[name]) == _map_id(programs.maps[name])


def test_kernel_is_older_when_the_verifier_does_not_know_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(accepted: tuple[bytes, ...]) -> bool:
        def verify(kind: int, attach: int, code: bytes, name: str) -> int:
            if code in accepted:
                return socket.socket().detach()
            raise OSError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(bpf_syscall, "load_program", verify)
        older.is_older_kernel.cache_clear()
        return older.is_older_kernel()

    try:
        assert load((older._PASS,))
        assert not load((older._PASS, older._ASK_FOR_THE_LINK))
        assert not load(())  # no such programs at all: the next who loads one says why
    finally:
        older.is_older_kernel.cache_clear()


def abort(sock: socket.socket) -> None:
    """Close it with a reset, so that nothing of it stays."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
