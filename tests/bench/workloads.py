"""Workloads to measure between: network namespaces on one bridge, made with the product's own plumbing.

Every contender gets two of its own, so that only the interceptor's are captured.  All of them have the same way to each
other: veth pair, bridge, veth pair.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.kernel import netlink
from interceptor.kernel.netns import create_named, remove_named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.kernel.netns import NetworkNamespace

BRIDGE = "icptbench0"
IPV4, IPV6 = IPv4Interface("10.224.0.1/16"), IPv6Interface("fd24::1/64")
SERVER_PORT = 9000
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")  # however we end; for a command to be run

# Of the namespace that looks; a new one has the host's.
CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")

_LOAD = Path(__file__).with_name("load.py")
_CLIENT_SECONDS = 120.0  # beyond what it was told to measure for, it hangs


@dataclass(frozen=True, slots=True)
class Workload:
    """One network namespace with its address."""

    name: str
    netns: Path
    address: IPv4Address

    def load(self, *arguments: object) -> list[str]:
        """The command that runs load.py in here."""
        program = [sys.executable, "-I", str(_LOAD), *map(str, arguments)]
        return [*ENDS_WITH_US, "nsenter", f"--net={self.netns}", *program]

    def measure(self, *arguments: object) -> dict[str, float]:
        """Run a client of load.py in here; what it measured."""
        result = subprocess.run(
            self.load(*arguments),
            capture_output=True,
            text=True,
            timeout=_CLIENT_SECONDS,
        )
        if result.returncode != 0:
            raise SystemExit(
                f"bench: 'load.py {arguments[0]}' in {self.name} failed: {result.stderr.strip()}"
            )
        measured: dict[str, float] = json.loads(result.stdout)
        return measured


@contextmanager
def bridge() -> Iterator[None]:
    """The bridge between all workloads."""
    netlink.ensure_bridge(BRIDGE, IPV4, IPV6)
    try:
        yield
    finally:
        netlink.remove_bridge(BRIDGE)


@contextmanager
def workload(directory: Path, name: str, number: int, congestion_control: str | None) -> Iterator[Workload]:
    """A network namespace on the bridge, with the `number`th address; the host's congestion control if none is given."""
    path = directory / name
    link = netlink.host_link_name(f"bench/{name}")
    address = IPv4Address(int(IPV4.ip) + number)
    interface = IPv4Interface(f"{address}/{IPV4.network.prefixlen}")
    # What a run that was killed left behind:
    netlink.remove_link(link)
    remove_named(path)
    try:
        with create_named(path) as netns:
            netlink.attach_to_bridge(BRIDGE, netns, link, [interface], [IPV4.ip])
            if congestion_control is not None:
                _set_congestion_control(netns, congestion_control)
        yield Workload(name, path, address)
    finally:
        netlink.remove_link(link)
        remove_named(path)


def _set_congestion_control(netns: NetworkNamespace, name: str) -> None:
    with netns.entered():
        try:
            CONGESTION_CONTROL.write_text(name, encoding="ascii")
        except OSError:
            allowed = CONGESTION_CONTROL.with_name("tcp_allowed_congestion_control").read_text(
                encoding="ascii"
            )
            raise SystemExit(f"bench: no congestion control {name!r} here, only: {allowed.strip()}") from None


@contextmanager
def server(workload: Workload) -> Iterator[None]:
    """load.py's server, listening in a workload."""
    with subprocess.Popen(
        workload.load("serve", workload.address, SERVER_PORT),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C is for us to handle
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"bench: the server in {workload.name} does not start")
            yield
        finally:
            process.kill()
