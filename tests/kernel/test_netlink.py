"""Bridges, veth pairs and addresses, in a namespace that plays the host."""

from __future__ import annotations

import time
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2 import IPRoute

from interceptor.errors import KernelError
from interceptor.kernel import netlink

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from interceptor.kernel.netns import NetworkNamespace

    Maker = Callable[[str], NetworkNamespace]
    Listen = Callable[[NetworkNamespace, str, int], socket.socket]
    Connect = Callable[[NetworkNamespace, socket.socket], tuple[socket.socket, socket.socket]]

BRIDGE = "itest-br0"
IPV4, IPV6 = IPv4Interface("10.99.0.1/16"), IPv6Interface("fd99::1/64")
GATEWAYS = (IPV4.ip, IPV6.ip)


def links() -> dict[str, Any]:
    with IPRoute() as route:
        return {link.get("ifname"): link for link in route.get_links()}


def texts(namespace: NetworkNamespace | None = None) -> list[tuple[str, str]]:
    return [(f"{a.address}/{a.prefix_length}", a.scope) for a in netlink.addresses(namespace)]


def attach(namespace: NetworkNamespace, number: int) -> None:
    interfaces = (ip_interface(f"10.99.0.{number}/16"), ip_interface(f"fd99::{number}/64"))
    netlink.attach_to_bridge(BRIDGE, namespace, f"itest-v{number}", interfaces, GATEWAYS)


@pytest.mark.netns
def test_addresses_of_a_new_namespace_are_none(host: NetworkNamespace) -> None:
    assert netlink.addresses(host) == netlink.addresses() == ()


@pytest.mark.netns
def test_addresses_on_loopback_that_are_no_loopback_addresses_are_listed(host: NetworkNamespace) -> None:
    with IPRoute() as route:
        route.addr("add", index=1, address="192.0.2.7", prefixlen=32)
        route.addr("add", index=1, address="2001:db8::7", prefixlen=128)
    assert texts(host) == [("192.0.2.7/32", "global"), ("2001:db8::7/128", "global")]


@pytest.mark.netns
def test_addresses_of_a_point_to_point_link_are_the_near_ends(host: NetworkNamespace) -> None:
    with IPRoute() as route:
        route.link("add", ifname="itest-p0", kind="veth", peer={"ifname": "itest-p1"})
        index = route.link_lookup(ifname="itest-p0")[0]
        route.addr("add", index=index, address="10.98.0.2", local="10.98.0.1", prefixlen=32)
    assert texts(host) == [("10.98.0.1/32", "global")]


@pytest.mark.netns
def test_bridge_made_twice_is_one_bridge_with_usable_addresses(host: NetworkNamespace) -> None:
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    hardware_address = links()[BRIDGE].get("address")
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    link = links()[BRIDGE]
    assert link["flags"] & 1
    assert link.get("address") == hardware_address
    assert [text for text in texts(host) if text[1] == "global"] == [
        ("10.99.0.1/16", "global"),
        ("fd99::1/64", "global"),
    ]
    with IPRoute() as route:
        assert not [a for a in route.get_addr(family=10, scope=0) if a["flags"] & 0x40]  # none is tentative


@pytest.mark.netns
def test_bridge_name_taken_by_another_link_is_refused(host: NetworkNamespace) -> None:
    with IPRoute() as route:
        route.link("add", ifname=BRIDGE, kind="veth", peer={"ifname": "itest-p1"})
    with pytest.raises(KernelError, match=f"link {BRIDGE} exists and is no bridge, but veth: choose another"):
        netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    netlink.remove_bridge(BRIDGE)
    assert BRIDGE in links()


@pytest.mark.netns
def test_bridge_of_another_agent_is_refused_until_that_one_has_gone(
    host: NetworkNamespace, tmp_path: Path
) -> None:
    ours, theirs, link = tmp_path / "ours", tmp_path / "theirs", tmp_path / "link"
    ours.mkdir()
    theirs.mkdir()
    link.symlink_to(theirs)
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6)  # as an agent of a version that wrote nothing on it
    netlink.require_own_bridge(BRIDGE, ours)
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6, owner=theirs)
    for same in (theirs, link):
        netlink.ensure_bridge(BRIDGE, IPV4, IPV6, owner=same)
        netlink.require_own_bridge(BRIDGE, theirs)
    message = f"bridge {BRIDGE} belongs to the agent whose paths.run is {link}: choose another bridge.name"
    with pytest.raises(KernelError, match=message):
        netlink.ensure_bridge(BRIDGE, IPV4, IPV6, owner=ours)
    with pytest.raises(KernelError, match=message):
        netlink.require_own_bridge(BRIDGE, ours)
    link.unlink()
    netlink.require_own_bridge(BRIDGE, ours)
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6, owner=ours)
    assert links()[BRIDGE].get("ifalias") == f"interceptor: {ours}"
    netlink.remove_bridge(BRIDGE)
    netlink.require_own_bridge(BRIDGE, theirs)


@pytest.mark.netns
def test_bridge_that_somebody_else_made_is_not_claimed(host: NetworkNamespace, tmp_path: Path) -> None:
    with IPRoute() as route:
        route.link("add", ifname=BRIDGE, kind="bridge")
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6, owner=tmp_path)
    assert links()[BRIDGE].get("ifalias") is None
    netlink.remove_bridge(BRIDGE)
    assert BRIDGE in links()


@pytest.mark.netns
@pytest.mark.parametrize("theirs", ["10.99.7.1/24", "fd99::7/48"])
def test_bridge_subnet_of_another_link_is_refused(host: NetworkNamespace, theirs: str) -> None:
    interface = ip_interface(theirs)
    with IPRoute() as route:
        route.link("add", ifname="itest-p0", kind="veth", peer={"ifname": "itest-p1"})
        index = route.link_lookup(ifname="itest-p0")[0]
        route.addr("add", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen)
    with pytest.raises(
        KernelError, match=rf"overlaps with {theirs} on itest-p0: choose another bridge.ipv[46]"
    ):
        netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    assert BRIDGE not in links()


@pytest.mark.netns
def test_bridge_with_an_impossible_name_is_refused(host: NetworkNamespace) -> None:
    with pytest.raises(KernelError, match="cannot set up bridge a-name-much-too-long: "):
        netlink.ensure_bridge("a-name-much-too-long", IPV4, IPV6)


@pytest.mark.netns
def test_bridge_and_link_removal_may_be_repeated(host: NetworkNamespace) -> None:
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    for _ in range(2):
        netlink.remove_bridge(BRIDGE)
        netlink.remove_link("itest-v2")
    assert list(links()) == ["lo"]


@pytest.mark.netns
@pytest.mark.parametrize("version", [4, 6])
def test_attached_namespaces_reach_one_another_and_the_host_at_once(
    host: NetworkNamespace, make_namespace: Maker, listen: Listen, connect: Connect, version: int
) -> None:
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    with IPRoute() as route:
        route.link("set", index=route.link_lookup(ifname=BRIDGE)[0], mtu=1400)
    web, client = make_namespace("web"), make_namespace("client")
    attach(web, 2)
    attach(client, 3)
    assert texts(web)[:2] == [("10.99.0.2/16", "global"), ("fd99::2/64", "global")]
    with web.entered():
        assert links()["eth0"].get("mtu") == 1400
    address = "10.99.0.2" if version == 4 else "fd99::2"
    sender, receiver = connect(client, listen(web, address, 80))
    sender.sendall(b"hello")
    assert receiver.recv(5) == b"hello"
    assert ip_address(receiver.getpeername()[0]) == ip_address(address) + 1
    connect(web, listen(host, str(GATEWAYS[version == 6]), 80))
    # What is beyond the subnet goes to the bridge: the host knows no way on, and says so, or drops it.
    with client.entered(), IPRoute() as route:
        found = route.route("get", dst="192.0.2.1" if version == 4 else "2001:db8::1")[0]
        assert ip_address(found.get("gateway")) == GATEWAYS[version == 6]
    netlink.remove_link("itest-v2")
    assert netlink.addresses(web) == ()


@pytest.mark.netns
def test_attached_namespace_loses_no_first_packet(
    host: NetworkNamespace, make_namespace: Maker, listen: Listen, connect: Connect
) -> None:
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    listening = listen(host, "fd99::1", 80)
    for number in range(2, 17):
        web = make_namespace(str(number))
        attach(web, number)
        started = time.monotonic()
        connect(web, listening)
        assert time.monotonic() - started < 0.5  # the first retransmission comes after a second


@pytest.mark.netns
def test_link_local_address_is_listed_as_such(host: NetworkNamespace) -> None:
    with IPRoute() as route:
        route.link("add", ifname="itest-p0", kind="veth", peer={"ifname": "itest-p1"})
        route.addr("add", index=route.link_lookup(ifname="itest-p0")[0], address="fe80::7", prefixlen=64)
    assert texts(host) == [("fe80::7/64", "link")]


@pytest.mark.netns
def test_attach_without_bridge_is_refused(host: NetworkNamespace, make_namespace: Maker) -> None:
    with pytest.raises(
        KernelError, match=rf"cannot attach network namespace .*: there is no bridge {BRIDGE}"
    ):
        attach(make_namespace("web"), 2)
    assert list(links()) == ["lo"]


@pytest.mark.netns
def test_attach_that_fails_halfway_leaves_nothing(host: NetworkNamespace, make_namespace: Maker) -> None:
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    web = make_namespace("web")
    outside = ip_address("192.0.2.1")
    with pytest.raises(
        KernelError, match=r"cannot set up eth0 in network namespace .*: Network is unreachable"
    ):
        netlink.attach_to_bridge(BRIDGE, web, "itest-v2", [ip_interface("10.99.0.2/16")], [outside])
    assert sorted(links()) == [BRIDGE, "lo"]
    with web.entered():
        assert list(links()) == ["lo"]


@pytest.mark.netns
def test_attach_twice_is_refused_and_the_first_stays(host: NetworkNamespace, make_namespace: Maker) -> None:
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    web = make_namespace("web")
    attach(web, 2)
    before = texts(web)[:2]
    with pytest.raises(KernelError, match=r"cannot attach network namespace .*: File exists"):
        attach(web, 3)
    assert texts(web)[:2] == before
    assert sorted(links()) == [BRIDGE, "itest-v2", "lo"]


@pytest.mark.netns
def test_attach_to_a_namespace_without_ipv6_leaves_ipv6_out(
    host: NetworkNamespace, make_namespace: Maker
) -> None:
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    web = make_namespace("web")
    with web.entered():
        for name in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    attach(web, 2)
    assert texts(web) == [("10.99.0.2/16", "global")]


@pytest.mark.netns
def test_host_without_ipv6_gets_a_bridge_without_it(host: NetworkNamespace) -> None:
    for name in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    assert texts() == [("10.99.0.1/16", "global")]


@pytest.mark.netns
def test_opened_on_a_closed_namespace_says_so(make_namespace: Maker) -> None:
    namespace = make_namespace("a")
    namespace.close()
    with pytest.raises(KernelError, match="cannot enter"):
        netlink.addresses(namespace)


def test_host_link_name_fits_and_tells_workloads_apart() -> None:
    names = {netlink.host_link_name(f"default/workload-{number}") for number in range(1000)}
    assert len(names) == 1000
    assert max(map(len, names)) <= 15
    assert netlink.host_link_name("default/web") == netlink.host_link_name("default/web")
