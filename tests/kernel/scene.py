"""Two network namespaces and the BPF programs between them, without an agent.

`workload` is the one that is enrolled; the test holds the listeners that its proxy would hold.
`neighbour` is a namespace at the other end of a link, and in no mesh.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from interceptor.kernel import netlink, sockets
from interceptor.kernel.abi import (
    INBOUND_PLAINTEXT_PORT,
    INBOUND_TUNNEL_PORT,
    OUTBOUND_PORT,
    Counter,
    ListenerSlot,
)
from interceptor.workload import Endpoint

if TYPE_CHECKING:
    import contextlib

    from interceptor.kernel.capture import Capture
    from interceptor.kernel.netns import NetworkNamespace

BPF_DIR = Path(f"/sys/fs/bpf/itest-rev-{os.getpid()}")
WORKLOAD = {socket.AF_INET: "10.99.1.1", socket.AF_INET6: "fd99:1::1"}
NEIGHBOUR = {socket.AF_INET: "10.99.1.2", socket.AF_INET6: "fd99:1::2"}
OUTSIDE = {socket.AF_INET: "192.0.2.2", socket.AF_INET6: "2001:db8::2"}  # the neighbour's too, not captured
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
PREFIXES = frozenset({ip_network("10.99.0.0/16"), ip_network("fd99::/16")})
ADDRESSES = tuple(map(ip_address, WORKLOAD.values()))
DEADLINE_SECONDS = 5.0

families = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])


@dataclass
class Scene:
    """The two namespaces, what is captured, and every socket that a test opened."""

    workload: NetworkNamespace
    neighbour: NetworkNamespace
    capture: Capture
    cookie: int
    stack: contextlib.ExitStack
    outbound: dict[int, socket.socket] = field(default_factory=dict)
    inbound: dict[ListenerSlot, socket.socket] = field(default_factory=dict)

    def socket(
        self, namespace: NetworkNamespace, family: int, kind: int = socket.SOCK_STREAM
    ) -> socket.socket:
        sock = self.stack.enter_context(namespace.open_socket(family, kind))
        sock.settimeout(DEADLINE_SECONDS)
        return sock

    def listen(
        self, namespace: NetworkNamespace, address: str, port: int = 0, *, both: bool = False
    ) -> socket.socket:
        """With `both` an IPv6 socket takes IPv4 connections, too."""
        sock = self.socket(namespace, socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in address and not both:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(128)
        return sock

    def connect(self, namespace: NetworkNamespace, family: int, address: str, port: int) -> socket.socket:
        sock = self.socket(namespace, family)
        sock.connect((address, port))
        return sock

    def accept(self, listening: socket.socket) -> socket.socket:
        accepted = self.stack.enter_context(listening.accept()[0])
        accepted.settimeout(DEADLINE_SECONDS)
        return accepted

    def open_listeners(self) -> None:
        for family, loopback in LOOPBACK.items():
            number = 4 if family == socket.AF_INET else 6
            self.outbound[family] = self.listen(self.workload, loopback, OUTBOUND_PORT)
            self.capture.note_listeners(self.cookie, [self.outbound[family]])
            plaintext = self.listen(self.workload, loopback, INBOUND_PLAINTEXT_PORT)
            tunnel = self.listen(self.workload, loopback, INBOUND_TUNNEL_PORT)
            self.inbound[ListenerSlot[f"PLAINTEXT_IPV{number}"]] = plaintext
            self.inbound[ListenerSlot[f"TUNNEL_IPV{number}"]] = tunnel

    def close_listeners(self) -> None:
        for sock in (*self.outbound.values(), *self.inbound.values()):
            sock.close()

    def count(self, counter: Counter) -> int:
        return self.capture.counters()[counter]

    def assert_captured(self, client: socket.socket, destination: str, port: int) -> socket.socket:
        """The proxy has it, and was told where it was meant to go; the application sees no difference."""
        mapped = destination if client.family == socket.AF_INET6 else None
        address = ip_address(destination.removeprefix("::ffff:"))
        listener = self.outbound[socket.AF_INET if address.version == 4 else socket.AF_INET6]
        accepted = self.accept(listener)
        assert sockets.original_destination(accepted) == Endpoint(address, port)
        assert client.getpeername()[:2] == (mapped or destination, port)
        assert accepted.getpeername()[0] == client.getsockname()[0].removeprefix("::ffff:")
        client.sendall(b"question")
        assert accepted.recv(100) == b"question"
        accepted.sendall(b"answer")
        assert client.recv(100) == b"answer"
        return accepted

    def assert_direct(self, client: socket.socket, listening: socket.socket) -> None:
        """It went where it was meant to go, by itself."""
        accepted = self.accept(listening)
        assert accepted.getpeername()[:2] == client.getsockname()[:2]
        assert accepted.getsockname()[:2] == client.getpeername()[:2]
        assert sockets.original_destination(accepted) is None


def join(workload: NetworkNamespace, neighbour: NetworkNamespace) -> None:
    """A link, with addresses at both ends that can be used at once."""
    with workload.entered(), IPRoute() as route:
        route.link("add", ifname="eth0", kind="veth", peer={"ifname": "eth0", "net_ns_fd": neighbour.fd})
    for namespace, numbers in ((workload, (WORKLOAD,)), (neighbour, (NEIGHBOUR, OUTSIDE))):
        with namespace.entered(), IPRoute() as route:
            index = route.link_lookup(ifname="eth0")[0]
            route.link("set", index=index, state="up")
            for addresses in numbers:
                route.addr("add", index=index, address=addresses[socket.AF_INET], prefixlen=24)
                route.addr("add", index=index, address=addresses[socket.AF_INET6], prefixlen=64, flags=2)
            if namespace is workload:
                route.route("add", dst="default", gateway=NEIGHBOUR[socket.AF_INET])
                route.route("add", dst="default", gateway=NEIGHBOUR[socket.AF_INET6], family=socket.AF_INET6)
    for namespace, numbers in ((workload, (WORKLOAD,)), (neighbour, (NEIGHBOUR, OUTSIDE))):
        own = [ip_interface(address) for addresses in numbers for address in addresses.values()]
        with namespace.entered(), IPRoute() as route:
            netlink._wait_until_usable(route, "eth0", own)
