"""enrol and withdraw: every way to name a namespace, everything that can be wrong with one, and nothing half done."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from interceptor.errors import AgentError
from interceptor.kernel import netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.workload import WorkloadKey
from tests.harness.process import wait_until
from tests.harness.tcp import FAMILIES, connected, echo, family_id, serving
from tests.integration.traces import bridge_ports, links, pinned_links, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness.namespace import Namespace
    from tests.harness.node import Node
    from tests.harness.process import Result

pytestmark = [pytest.mark.netns, pytest.mark.bpf, pytest.mark.timeout(60)]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=family_id)
PORT = 7050


def enrol(node: Node, *options: str | Path, account: str = "blue") -> Result:
    return node.cli("enrol", "--service-account", account, *options)


def assert_refused(result: Result, *words: str, status: int = 1) -> None:
    """One line on standard error that says it, and no more."""
    assert result.status == status, result
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines, result
    for word in words:
        assert word in lines[-1], result.stderr
    if status == 1:
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("interceptor: ")


@contextlib.contextmanager
def unchanged(node: Node, *namespaces: Namespace) -> Iterator[None]:
    """Nothing of what an enrolment makes is there afterwards that was not there before."""

    def everything() -> object:
        state = (
            (node.run_dir / "workloads.json").read_text()
            if (node.run_dir / "workloads.json").exists()
            else ""
        )
        names = {workload["name"] for workload in node.workloads()}
        return ([settings(n) for n in namespaces], set(pinned_links(node)), names, state.count('"name"'))

    before = everything()
    yield
    assert everything() == before
    descriptors = node.open_descriptors()
    wait_until(lambda: node.open_descriptors() <= descriptors, "no descriptor is left open")


@pytest.fixture
def blue(shared_node: Node) -> Iterator[Namespace]:
    namespace = shared_node.plain_namespace("blue")
    yield namespace
    namespace.close()


@contextlib.contextmanager
def enrolled(node: Node, *options: str | Path, account: str = "blue") -> Iterator[None]:
    enrol(node, *options, account=account).check()
    try:
        yield
    finally:
        node.cli("withdraw", account).check()


@contextlib.contextmanager
def process_in_new_namespace() -> Iterator[int]:
    """The pid of a program in a namespace without a name, which has a link of its own with an address."""
    script = (
        "ip link set lo up; ip link add eth0 type veth peer name eth1; ip addr add 198.51.100.77/24 dev eth0; "
        "ip link set eth0 up; echo ready; exec sleep infinity"
    )
    program = subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE)
    assert program.stdout is not None
    try:
        assert program.stdout.readline() == b"ready\n"
        yield program.pid
    finally:
        program.kill()
        program.wait()
        program.stdout.close()


def test_namespace_given_by_path_is_enrolled_and_afterwards_as_it_was(
    shared_node: Node, blue: Namespace
) -> None:
    with unchanged(shared_node, blue):
        result = enrol(shared_node, "--netns", blue.netns_path).check()
        assert result.stdout == (
            f"enrolled default/blue as spiffe://cluster.local/ns/default/sa/blue ({blue.ipv4}, {blue.ipv6})\n"
        )
        assert settings(blue)["ports"] == {15001, 15006, 15008}
        assert shared_node.cli("withdraw", "blue").check().stdout == "withdrew default/blue\n"


def test_namespace_given_by_name_is_found_where_ip_netns_has_it(shared_node: Node) -> None:
    path = kernel_netns.NAMED_NAMESPACES / f"{shared_node.name}-named"
    kernel_netns.remove_named(path)
    with kernel_netns.create_named(path) as netns, netns.entered(), IPRoute() as route:
        route.addr("add", index=1, address="198.51.100.78", prefixlen=32)
    try:
        with enrolled(shared_node, "--netns", path.name):
            (entry,) = [w for w in shared_node.workloads() if w["name"] == "blue"]
            assert entry["netns"] == str(path)
            assert entry["addresses"] == ["198.51.100.78"]
    finally:
        kernel_netns.remove_named(path)


def test_namespace_given_by_process_is_enrolled_and_withdrawn_when_the_last_process_ends(
    shared_node: Node,
) -> None:
    with process_in_new_namespace() as pid:
        enrol(shared_node, "--pid", str(pid), account="container").check()
        assert "container" in {w["name"] for w in shared_node.workloads()}
    wait_until(
        lambda: "container" not in {w["name"] for w in shared_node.workloads()}, "it is withdrawn by itself"
    )
    assert "default/container has ended" in shared_node.log()


def test_namespace_that_is_removed_while_enrolled_is_withdrawn_by_itself(shared_node: Node) -> None:
    gone = shared_node.plain_namespace("gone")
    enrol(shared_node, "--netns", gone.netns_path, account="gone").check()
    pins = len(pinned_links(shared_node))
    gone.close()
    wait_until(lambda: len(pinned_links(shared_node)) == pins - 1, "it is withdrawn by itself")
    assert "gone" not in {w["name"] for w in shared_node.workloads()}


REFUSED: dict[str, tuple[list[str], list[str], int]] = {
    "host by pid": (["--pid", str(os.getpid())], ["is the host's own network namespace"], 1),
    "host by path": (["--netns", f"/proc/{os.getpid()}/ns/net"], ["is the host's own network namespace"], 1),
    "no such name": (["--netns", "no-such"], ["'no-such' does not exist", "ip netns list"], 1),
    "no such path": (["--netns", "/no/such"], ["'/no/such' does not exist"], 1),
    "no such process": (["--pid", "4194000"], ["process 4194000 does not exist"], 1),
    "plain file": (["--netns", "/etc/passwd"], ["/etc/passwd is not a network namespace"], 1),
    "directory": (["--netns", "/etc"], ["/etc is not a network namespace"], 1),
    "device": (["--netns", "/dev/zero"], ["/dev/zero is not a network namespace"], 1),
    "mount namespace": (["--netns", f"/proc/{os.getpid()}/ns/mnt"], ["a namespace of another kind"], 1),
    "name with dots": (["--netns", ".."], ["'..' is not the name or path"], 1),
    "empty name": (["--netns", ""], ["netns"], 2),
    "both": (["--netns", "x", "--pid", "1"], ["give either --netns or --pid"], 2),
    "neither": ([], ["give either --netns or --pid"], 2),
    "pid zero": (["--pid", "0"], ["--pid"], 2),
    "pid text": (["--pid", "one"], ["--pid"], 2),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_namespace_to_enrol_is_refused(shared_node: Node, name: str) -> None:
    options, words, status = REFUSED[name]
    with unchanged(shared_node):
        assert_refused(enrol(shared_node, *options), *words, status=status)


@pytest.mark.parametrize(
    ("option", "value", "words", "status"),
    [
        ("--service-account", "Web", "service account 'Web' is not a valid name", 2),
        ("--service-account", "a/b", "service account 'a/b' is not a valid name", 2),
        ("--service-account", "a" * 254, "service account", 2),
        ("--namespace", "Shop", "namespace 'Shop' is not a valid name", 2),
        ("--namespace", "../x", "namespace '../x' is not a valid name", 2),
        ("--name", "a.b", "workload name 'a.b' is not a valid name", 2),
        ("--name", "a\nb", "workload name 'a\\nb' is not a valid name", 2),
        ("--name", "localhost", "its name means the host itself", 1),
    ],
)
def test_bad_name_is_refused_and_named(
    shared_node: Node, blue: Namespace, option: str, value: str, words: str, status: int
) -> None:
    with unchanged(shared_node, blue):
        result = shared_node.cli(
            "enrol", "--service-account", "blue", "--netns", blue.netns_path, option, value
        )
        assert_refused(result, words, status=status)


@pytest.mark.parametrize("key", ["service_account", "namespace", "name"])
def test_bad_name_that_comes_over_the_socket_is_refused_by_the_agent(
    shared_node: Node, blue: Namespace, key: str
) -> None:
    request = {"service_account": "blue", "namespace": "default", "name": "blue", key: "../x"}
    with unchanged(shared_node, blue), pytest.raises(AgentError, match="is not a valid name"):
        shared_node.ask("enrol", netns=str(blue.netns_path), pid=None, **request)
    with unchanged(shared_node), pytest.raises(AgentError, match="is not a valid name"):
        shared_node.ask("run", pid=os.getpid(), **request)


def test_same_namespace_twice_is_refused(shared_node: Node, blue: Namespace) -> None:
    with enrolled(shared_node, "--netns", blue.netns_path), unchanged(shared_node, blue):
        again = enrol(shared_node, "--netns", blue.netns_path, account="other")
        assert_refused(again, "is enrolled already, as default/blue", "withdraw that first")


def test_same_name_twice_is_refused(shared_node: Node, blue: Namespace) -> None:
    green = shared_node.plain_namespace("green")
    with enrolled(shared_node, "--netns", blue.netns_path), unchanged(shared_node, blue, green):
        again = enrol(shared_node, "--netns", green.netns_path, "--name", "blue", account="green")
        assert_refused(again, "workload default/blue is enrolled already")
    green.close()


def test_address_of_another_workload_is_refused(shared_node: Node, blue: Namespace) -> None:
    green = shared_node.plain_namespace("green")
    green.add_address(f"{blue.ipv4}/32")
    with enrolled(shared_node, "--netns", blue.netns_path), unchanged(shared_node, blue, green):
        second = enrol(shared_node, "--netns", green.netns_path, account="green")
        assert_refused(second, f"its address {blue.ipv4} belongs to default/blue")
    green.close()


def test_namespace_without_an_address_is_refused(shared_node: Node, tmp_path: Path) -> None:
    path = tmp_path / "bare"
    with kernel_netns.create_named(path), unchanged(shared_node):
        assert_refused(
            enrol(shared_node, "--netns", path),
            "has no address that others can reach",
            "give a link in it one",
        )
    kernel_netns.remove_named(path)


@pytest.mark.parametrize(
    ("address", "port"), [("0.0.0.0", 15001), ("127.0.0.1", 15006), ("::1", 15008), ("::", 15001)]
)
def test_port_that_is_taken_inside_is_named_and_nothing_is_changed(
    shared_node: Node, blue: Namespace, address: str, port: int
) -> None:
    with blue.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen()
        with unchanged(shared_node, blue):
            assert_refused(
                enrol(shared_node, "--netns", blue.netns_path),
                f"port {port} is taken inside",
                "stop the program",
            )


def test_routing_table_that_is_in_use_is_left_alone(shared_node: Node, blue: Namespace) -> None:
    with blue.netns.entered(), IPRoute() as route:
        index = route.link_lookup(ifname="eth0")[0]
        route.route(
            "add", dst="default", gateway=str(shared_node.slot.bridge_ipv4.ip), oif=index, table=15008
        )
    with unchanged(shared_node, blue):
        assert_refused(enrol(shared_node, "--netns", blue.netns_path), "routing table 15008 is in use there")


def test_namespace_without_ipv6_is_enrolled_for_ipv4(shared_node: Node, blue: Namespace) -> None:
    with blue.netns.entered():
        for link in ("all", "default", "lo", "eth0"):
            with open(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6", "w") as file:  # noqa: PTH123
                file.write("1")
    peer = shared_node.workload("peer")
    with unchanged(shared_node, blue), enrolled(shared_node, "--netns", blue.netns_path):
        for source, destination in ((blue, peer), (peer, blue)):
            with connected(source, destination) as (near, far):
                near.sendall(b"hello")
                assert far.recv(5) == b"hello"
    peer.close()


@each_family
def test_withdrawn_namespace_connects_as_without_the_mesh(
    shared_node: Node, blue: Namespace, family: int
) -> None:
    other = shared_node.plain_namespace("other")
    with serving(other.listen(family, PORT), echo), serving(blue.listen(family, PORT), echo):
        with enrolled(shared_node, "--netns", blue.netns_path):
            for source, destination in ((blue, other), (other, blue)):
                with pytest.raises(ConnectionError):
                    _exchange(source, destination, family)
        for source, destination in ((blue, other), (other, blue)):
            with shared_node.wire(blue, marker=b"in the clear", expect="plaintext"):
                _exchange(source, destination, family)
    other.close()


def _exchange(source: Namespace, destination: Namespace, family: int) -> None:
    with source.connect((destination.address(family), PORT)) as sock:
        sock.sendall(b"in the clear")
        assert sock.recv(4096) == b"in the clear"


def test_withdrawal_resets_open_connections(shared_node: Node, blue: Namespace) -> None:
    peer = shared_node.workload("peer")
    with enrolled(shared_node, "--netns", blue.netns_path):
        since = shared_node.mark()
        with connected(peer, blue) as (near, far):
            shared_node.cli("withdraw", "default/blue").check()
            for sock in (near, far):
                with pytest.raises(ConnectionError):
                    sock.recv(1)
        shared_node.wait_for_record(lambda r: r["reason"] == "withdrawn", since=since)
        enrol(shared_node, "--netns", blue.netns_path).check()  # for the end of the block
    peer.close()


def test_withdrawal_of_what_is_not_enrolled_is_refused(shared_node: Node) -> None:
    assert_refused(shared_node.cli("withdraw", "nobody"), "no workload is called 'nobody'")
    assert_refused(shared_node.cli("withdraw", "default/nobody"), "no workload is called 'default/nobody'")
    assert_refused(shared_node.cli("withdraw", ""), "name", status=2)


def test_name_in_two_namespaces_must_be_qualified(shared_node: Node, blue: Namespace) -> None:
    green = shared_node.plain_namespace("green")
    enrol(shared_node, "--netns", blue.netns_path, "--name", "twin").check()
    enrol(shared_node, "--netns", green.netns_path, "--name", "twin", "--namespace", "shop").check()
    assert_refused(shared_node.cli("withdraw", "twin"), "default/twin", "shop/twin", "give namespace/name")
    shared_node.cli("withdraw", "shop/twin").check()
    shared_node.cli("withdraw", "twin").check()
    green.close()


def test_new_address_of_a_workload_is_followed(shared_node: Node, blue: Namespace) -> None:
    peer = shared_node.workload("peer")
    new = str(shared_node.slot.mesh_ipv4[199])
    with enrolled(shared_node, "--netns", blue.netns_path):
        blue.add_address(f"{new}/24")
        wait_until(
            lambda: new in next(w for w in shared_node.workloads() if w["name"] == "blue")["addresses"],
            "the new address is known",
        )
        with serving(_listen(blue, new), echo), peer.connect((new, PORT)) as sock:
            sock.sendall(b"hello")
            assert sock.recv(5) == b"hello"
        with blue.netns.entered(), IPRoute() as route:
            route.addr("del", index=route.link_lookup(ifname="eth0")[0], address=new, prefixlen=24)
        wait_until(
            lambda: new not in next(w for w in shared_node.workloads() if w["name"] == "blue")["addresses"],
            "the old address is forgotten",
        )
        with pytest.raises(ConnectionError), peer.connect((new, PORT)) as sock:
            sock.recv(1)
    peer.close()


def _listen(namespace: Namespace, address: str) -> socket.socket:
    sock = namespace.open_socket()
    sock.bind((address, PORT))
    sock.listen()
    return sock


def test_address_that_a_workload_steals_stays_with_its_owner(shared_node: Node, blue: Namespace) -> None:
    """An address in its own namespace gives a workload nothing: neither connections nor the other's identity."""
    victim, peer = shared_node.workload("victim"), shared_node.workload("peer")
    with enrolled(shared_node, "--netns", blue.netns_path):
        blue.add_address(f"{victim.ipv4}/32")
        wait_until(lambda: f"its address {victim.ipv4} belongs to" in shared_node.log(), "it is noticed")
        with connected(peer, victim) as (near, far):
            near.sendall(b"hello")
            assert far.recv(5) == b"hello"
        (entry,) = [w for w in shared_node.workloads() if w["name"] == "blue"]
        assert victim.ipv4 not in entry["addresses"]
    for workload in (victim, peer):
        workload.close()


def test_workload_with_more_addresses_than_fit_does_not_harm_the_agent(
    shared_node: Node, blue: Namespace
) -> None:
    with enrolled(shared_node, "--netns", blue.netns_path):
        with blue.netns.entered(), IPRoute() as route:
            index = route.link_lookup(ifname="eth0")[0]
            for number in range(300):
                address = str(shared_node.slot.mesh_ipv6[0x1000 + number])
                route.addr("add", index=index, family=10, address=address, prefixlen=128, flags=2)
        wait_until(lambda: "takes no more entries" in shared_node.log(), "it is refused")
        wait_until(lambda: _is_served(shared_node, blue), "it is served at the addresses that it had")
        assert shared_node.log().count("takes no more entries") == 1
    assert os.path.exists(f"/proc/{shared_node.agent_pid}")  # noqa: PTH110


def _is_served(node: Node, namespace: Namespace) -> bool:
    (entry,) = [w for w in node.workloads() if w["name"] == namespace.name]
    return namespace.ipv4 in entry["addresses"] and entry["state"] == "ready"


def test_failed_run_leaves_no_link_and_no_namespace(shared_node: Node) -> None:
    link = netlink.host_link_name(f"{shared_node.name}/{WorkloadKey('default', 'localhost')}")
    before = bridge_ports(shared_node.bridge)
    with unchanged(shared_node):
        result = shared_node.cli("run", "--service-account", "x", "--name", "localhost", "--", "true")
        assert_refused(result, "its name means the host itself")
    assert link not in links()
    assert bridge_ports(shared_node.bridge) <= before  # one of an earlier test may be on its way out
    assert not list((shared_node.run_dir / "netns").glob("*localhost*"))
