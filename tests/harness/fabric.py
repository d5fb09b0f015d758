"""Several hosts on one machine: each "node" is a network namespace with its own agent, cgroup, state and bridge.

The nodes are joined by veth pairs to a bridge in a namespace of its own, the fabric, and route to each other's bridges
through it; what they send each other can be sniffed there.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.keyring import Keyring
from tests.harness import slot as slots
from tests.harness.node import Node
from tests.harness.process import Program, run
from tests.harness.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from ipaddress import IPv4Address, IPv6Address
    from pathlib import Path

    from interceptor.kernel.netns import NetworkNamespace
    from tests.harness.namespace import Workload
    from tests.harness.slot import Slot

_NODE_LINK, _BRIDGE = "eth0", "fabric"
_JOIN_CGROUP = 'echo $$ >"$1/cgroup.procs" && shift && exec "$@"'


class FabricNode(Node):
    """A node in a network namespace and a cgroup of its own: its agent and its workloads see no more of the machine.

    address    where the other nodes reach it, as text
    """

    def __init__(self, slot: Slot, fabric: Fabric, number: int, **options: Any) -> None:
        self.fabric = fabric
        self.address = str(fabric.ipv4(number))
        self.ipv6_address = str(fabric.ipv6(number))
        slot.cgroup.mkdir()
        self._path = slot.directory / "netns" / "node"
        self.netns = kernel_netns.create_named(self._path)
        fabric.plug_in(self, number)
        super().__init__(slot, **options)

    @property
    def netns_path(self) -> Path:
        return self._path

    def command(self) -> list[str]:
        return self.enter(super().command())

    def enter(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` on this node, outside of its workloads."""
        return [*self._inside_cgroup(), "nsenter", f"--net={self._path}", "--", *map(str, command)]

    def workload(self, name: str, **options: Any) -> Workload:
        made = super().workload(name, **options)
        made.prefix = self._inside_cgroup()
        return made

    def close(self) -> None:
        try:
            super().close()
            assert Keyring(f"interceptor node {self.state_dir}").load() is None, "`down` left the node's key"
            assert not self.state_dir.exists(), f"`down` left {list(self.state_dir.iterdir())}"
        finally:
            self.netns.close()
            kernel_netns.remove_named(self._path)

    def _inside_cgroup(self) -> list[str]:
        """What makes a command line run in the node's cgroup: what is captured is decided by the socket's."""
        return ["sh", "-c", _JOIN_CGROUP, "sh", str(self.slot.cgroup)]


class Fabric:
    """The network between the nodes; `netns` is its namespace."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self._path = slot.directory / "netns" / "fabric"
        self.netns: NetworkNamespace = kernel_netns.create_named(self._path)
        self.nodes: list[FabricNode] = []
        self._links: list[str] = []
        self._ip("link", "add", _BRIDGE, "type", "bridge")
        self._ip("address", "add", f"{self.authority_address}/24", "dev", _BRIDGE)
        for link in ("lo", _BRIDGE):
            self._ip("link", "set", link, "up")

    def ipv4(self, number: int) -> IPv4Address:
        """The address of node `number` on the fabric."""
        return self.slot.outside_ipv4[number]

    def ipv6(self, number: int) -> IPv6Address:
        return self.slot.outside_ipv6[number]

    @property
    def authority_address(self) -> str:
        """An address that every node reaches and no node has."""
        return str(self.slot.outside_ipv4[254])

    def plug_in(self, node: FabricNode, number: int) -> None:
        """Join a node's namespace to the bridge, and tell it and the others the routes to each other's workloads."""
        link = f"node{number}"
        self._ip("link", "add", link, "type", "veth", "peer", "name", _NODE_LINK, "netns", node.netns_path)
        self._ip("link", "set", link, "master", _BRIDGE, "up")
        self._links.append(link)
        self._ip("link", "set", "lo", "up", at=node)
        self._ip("link", "set", _NODE_LINK, "up", at=node)
        self._ip("address", "add", f"{node.address}/24", "dev", _NODE_LINK, at=node)
        self._ip("address", "add", f"{node.ipv6_address}/64", "dev", _NODE_LINK, "nodad", at=node)
        _forward(node.netns)

    def join(self, node: FabricNode) -> None:
        """Tell this node and those that are there already the way to each other's workloads."""
        for other in self.nodes:
            for one, another in ((node, other), (other, node)):
                slot = another.slot
                self._ip("route", "add", slot.mesh_ipv4, "via", another.address, at=one)
                self._ip("route", "add", slot.mesh_ipv6, "via", another.ipv6_address, at=one)
        self.nodes.append(node)

    def enter(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` here, beside the nodes."""
        return ["nsenter", f"--net={self._path}", "--", *map(str, command)]

    def spawn(self, *command: str | Path, stem: str) -> Program:
        """Start a program here; the caller stops it."""
        return Program(self.enter(command), self.slot.directory / stem, self.slot.journal)

    def wire(self, marker: bytes, *, other_tls_ports: tuple[int, ...] = ()) -> Wire:
        """Sniff what passes between the nodes: only tunnels, and TLS with `other_tls_ports`."""
        return Wire(self._links, marker, netns=self.netns, other_tls_ports=other_tls_ports)

    def close(self) -> None:
        self.netns.close()
        kernel_netns.remove_named(self._path)

    def _ip(self, *arguments: object, at: FabricNode | None = None) -> None:
        path = self._path if at is None else at.netns_path
        run(["nsenter", f"--net={path}", "--", "ip", *map(str, arguments)]).check()


def _forward(netns: NetworkNamespace) -> None:
    with netns.entered():
        for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            fd = os.open(f"/proc/sys/net/{setting}", os.O_WRONLY)
            try:
                os.write(fd, b"1")
            finally:
                os.close(fd)


@contextlib.contextmanager
def fabric_of(count: int, **options: Any) -> Iterator[Fabric]:
    """A fabric with `count` nodes whose agents were not started yet; `options` are those of Node.

    Every node's configuration captures the networks of all of them.
    """
    with contextlib.ExitStack() as stack:
        taken = [slots.acquire() for _ in range(count + 1)]
        for slot in taken:
            stack.callback(slot.release)
        own, *others = taken
        fabric = Fabric(own)
        stack.callback(fabric.close)
        cidrs = [str(cidr) for slot in others for cidr in (slot.mesh_ipv4, slot.mesh_ipv6)]
        for number, slot in enumerate(others, start=1):
            node = FabricNode(slot, fabric, number, mesh={"cidrs": cidrs}, **options)
            stack.callback(node.close)
            fabric.join(node)
        yield fabric
