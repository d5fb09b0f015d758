"""The borrowed client address, end to end, and that nothing of it stays behind."""

from __future__ import annotations

import json
import socket
from ipaddress import ip_interface
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from interceptor.errors import KernelError, StateError
from interceptor.kernel import netlink
from interceptor.kernel.return_path import (
    PreviousSysctls,
    has_return_path,
    install_return_path,
    remove_return_path,
)
from interceptor.kernel.sockets import make_transparent

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.kernel.netns import NetworkNamespace

    Maker = Callable[[str], NetworkNamespace]
    Listen = Callable[[NetworkNamespace, str, int], socket.socket]

# A neighbour on the same subnet, and a client from far away: their answers would leave by different routes.
CLIENTS = [
    ("10.99.0.2", "10.99.0.77"),
    ("10.99.0.2", "192.0.2.5"),
    ("fd99::2", "fd99::77"),
    ("fd99::2", "2001:db8::5"),
]


@pytest.fixture
def pod(make_namespace: Maker) -> NetworkNamespace:
    """A namespace with addresses and default routes, as a workload's is."""
    namespace = make_namespace("pod")
    with namespace.entered(), IPRoute() as route:
        route.link("add", ifname="eth0", kind="veth", peer={"ifname": "eth0-peer"})
        for name in ("eth0", "eth0-peer"):
            route.link("set", index=route.link_lookup(ifname=name)[0], state="up")
        index = route.link_lookup(ifname="eth0")[0]
        route.addr("add", index=index, address="10.99.0.2", prefixlen=16)
        route.addr("add", index=index, address="fd99::2", prefixlen=64, flags=2)
        route.route("add", dst="default", gateway="10.99.0.1")
        route.route("add", dst="default", gateway="fd99::1", family=socket.AF_INET6)
        own = [ip_interface("10.99.0.2/16"), ip_interface("fd99::2/64")]
        netlink._wait_until_usable(route, "eth0", own)
    return namespace


def borrowed(pod: NetworkNamespace, client: str) -> socket.socket:
    """A socket of the proxy's, bound to its client's address."""
    sock = pod.open_socket(socket.AF_INET6 if ":" in client else socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(2)
    make_transparent(sock)
    sock.bind((client, 0))
    return sock


def sysctls(pod: NetworkNamespace) -> dict[str, str]:
    names = ("ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect", "mptcp/enabled")
    with pod.entered():
        return {name: path.read_text() for name in names if (path := Path("/proc/sys/net", name)).exists()}


def rules_and_routes(pod: NetworkNamespace) -> list[str]:
    with pod.entered(), IPRoute() as route:
        return [
            str(
                {key: value for key, value in message.items() if key not in ("header", "attrs")}
                | dict(message["attrs"])
            )
            for family in (socket.AF_INET, socket.AF_INET6)
            for listing in (route.get_rules(family=family), route.get_routes(family=family))
            for message in listing
            if message.get_attr("RTA_CACHEINFO") is None or message.get_attr("RTA_TABLE") == 15008
        ]


@pytest.mark.netns
@pytest.mark.parametrize(("server", "client"), CLIENTS)
@pytest.mark.parametrize("rp_filter", ["0", "1"])
def test_application_sees_the_clients_address_and_answers_it(
    pod: NetworkNamespace, listen: Listen, server: str, client: str, rp_filter: str
) -> None:
    with pod.entered():
        for name in ("all", "lo", "eth0"):
            Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text(rp_filter)
    install_return_path(pod)
    listening = listen(pod, server, 80)
    with borrowed(pod, client) as proxy:
        proxy.connect((server, 80))
        application, peer = listening.accept()
        with application:
            application.settimeout(2)
            assert peer[0] == client
            proxy.sendall(b"question")
            assert application.recv(8) == b"question"
            application.sendall(bytes(1 << 20))
            application.shutdown(socket.SHUT_WR)
            assert sum(iter(lambda: len(proxy.recv(1 << 16)), 0)) == 1 << 20
            proxy.sendall(b"after half-close")
            assert application.recv(16) == b"after half-close"


@pytest.mark.netns
@pytest.mark.parametrize(("server", "client"), CLIENTS)
def test_application_that_refuses_is_heard(pod: NetworkNamespace, server: str, client: str) -> None:
    install_return_path(pod)
    with borrowed(pod, client) as proxy, pytest.raises(ConnectionRefusedError):
        proxy.connect((server, 81))


@pytest.mark.netns
def test_installed_and_removed_everything_is_as_before(pod: NetworkNamespace) -> None:
    with pod.entered():
        Path("/proc/sys/net/ipv4/fwmark_reflect").write_text("1")  # somebody needed it before us
    before = sysctls(pod), rules_and_routes(pod)
    assert not has_return_path(pod)
    previous = install_return_path(pod)
    assert has_return_path(pod)
    install_return_path(pod)  # once more, as after a crash
    assert has_return_path(pod)
    for _ in range(2):
        remove_return_path(pod, PreviousSysctls.from_dict(json.loads(json.dumps(previous.to_dict()))))
        assert not has_return_path(pod)
        assert (sysctls(pod), rules_and_routes(pod)) == before


@pytest.mark.netns
def test_incomplete_return_path_is_noticed_and_repaired(pod: NetworkNamespace) -> None:
    install_return_path(pod)
    with pod.entered(), IPRoute() as route:
        route.rule("del", family=socket.AF_INET6, priority=15008, table=15008, fwmark=0x15008)
    assert not has_return_path(pod)
    install_return_path(pod)
    assert has_return_path(pod)
    with pod.entered():
        Path("/proc/sys/net/ipv4/tcp_fwmark_accept").write_text("0")
    assert not has_return_path(pod)


@pytest.mark.netns
def test_namespace_without_ipv6_gets_ipv4_only(pod: NetworkNamespace, listen: Listen) -> None:
    with pod.entered():
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    previous = install_return_path(pod)
    assert has_return_path(pod)
    listening = listen(pod, "10.99.0.2", 80)
    with borrowed(pod, "192.0.2.5") as proxy:
        proxy.connect(("10.99.0.2", 80))
        application, peer = listening.accept()
        application.close()
    assert peer[0] == "192.0.2.5"
    remove_return_path(pod, previous)
    assert not has_return_path(pod)


@pytest.mark.netns
def test_multipath_tcp_is_switched_off_meanwhile(pod: NetworkNamespace) -> None:
    def can_have_multipath() -> bool:
        try:
            pod.open_socket(socket.AF_INET, socket.SOCK_STREAM, 262).close()
        except OSError:
            return False
        return True

    before = can_have_multipath()
    previous = install_return_path(pod)
    assert not can_have_multipath()
    remove_return_path(pod, previous)
    assert can_have_multipath() == before


@pytest.mark.netns
def test_install_into_a_table_that_is_in_use_is_refused_and_undone(pod: NetworkNamespace) -> None:
    with pod.entered(), IPRoute() as route:
        route.route("add", dst="default", gateway="10.99.0.9", table=15008)
    before = sysctls(pod), rules_and_routes(pod)
    with pytest.raises(KernelError, match="routing table 15008 is in use there"):
        install_return_path(pod)
    assert (sysctls(pod), rules_and_routes(pod)) == before


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"kernel/core_pattern": "1"},
        {"net/ipv4/fwmark_reflect": 1},
        {"net/ipv4/fwmark_reflect": "|x"},
    ],
)
def test_previous_sysctls_from_a_corrupt_state_file_are_refused(data: object) -> None:
    with pytest.raises(StateError):
        PreviousSysctls.from_dict(data)
