"""A node with pods, and no Kubernetes: processes in cgroups and network namespaces of their own, and an agent's half.

The names of the pods say what they are: those that begin with "in" are in the mesh, the others are outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import time
import warnings
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import trio
import trio.lowlevel
from pyroute2 import IPRoute

from interceptor.agent.listeners import open_listeners, steering_slots
from interceptor.agent.outside import Outside
from interceptor.errors import InterceptorError
from interceptor.kernel import capture, netlink, sockets
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.abi import OUTBOUND_PORT
from interceptor.kernel.capture import Capture
from interceptor.kernel.hold import Hold
from interceptor.kernel.mounts import find_cgroup2
from tests.harness.cgroup import enter, made

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interceptor.kernel.bpf_program import Programs
    from interceptor.kernel.hold import Waiting
    from interceptor.kernel.netns import NetworkNamespace

PREFIXES = (ip_network("10.99.0.0/16"), ip_network("fd99::/64"))
HOST = {socket.AF_INET: "10.99.0.1", socket.AF_INET6: "fd99::1"}
BRIDGE = "pods0"
SERVER_PORT = 80
SECONDS = 20.0
_PR_SET_PDEATHSIG = 1
NOT_YET_SECONDS = 0.05  # a namespace that cannot be told yet is looked at again after this


@dataclass
class Result:
    """What a pod saw: how long its first connection took, and what it was answered."""

    seconds: float
    answer: str


class Pod:
    """A process in a cgroup and a network namespace of its own, whose first deed is to connect."""

    def __init__(self, name: str, netns: NetworkNamespace, cgroup: Path, family: int, marker: bytes) -> None:
        self.name = name
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # we have threads; the child does not need them
            self.pid = os.fork()
        if self.pid == 0:
            _stand_alone({writing, netns.fd})
            _be_a_pod(netns, cgroup, family, marker, writing)
        os.close(writing)
        self._reading = reading
        self._ended = False

    def fileno(self) -> int:
        """Readable when it has ended."""
        return self._reading

    def result(self) -> Result:
        """Wait for its end."""
        with open(self._reading, encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            seconds, answer = file.read().split(" ", 1)
        self.end()
        return Result(float(seconds), answer)

    def end(self) -> None:
        """End it, if it has not ended by itself."""
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._ended = True


def _stand_alone(needed: set[int]) -> None:
    """A child of ours, with the descriptors that it needs and no others: one end of a pipe is waited for by somebody."""
    for fd in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if fd > 2 and fd not in needed:
            with contextlib.suppress(OSError):
                os.close(fd)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _be_a_pod(netns: NetworkNamespace, cgroup: Path, family: int, marker: bytes, writing: int) -> NoReturn:
    answer, started = "nothing at all", 0.0
    try:
        enter(cgroup)
        with netns.entered():
            started = time.monotonic()
            with socket.create_connection((HOST[family], SERVER_PORT), SECONDS) as sock:
                sock.sendall(marker)
                answer = sock.recv(1000).decode()
    except OSError as error:
        answer = f"error: {error}"
    finally:
        os.write(writing, f"{time.monotonic() - started} {answer}".encode())
        os._exit(0)


@dataclass
class PodNode:
    """The host's side: a namespace with a bridge, on which a server listens, and the pods' cgroup."""

    host: NetworkNamespace
    pods: Path
    bpf_dir: Path
    stack: contextlib.ExitStack
    _number: int = field(default=0, init=False)
    _agent: int | None = field(default=None, init=False)

    def start_pod(self, name: str, netns: NetworkNamespace, marker: bytes) -> Pod:
        """A new pod on the bridge; every second one speaks IPv6."""
        self._number += 1
        family = (socket.AF_INET, socket.AF_INET6)[self._number % 2]
        self._plug(netns, self._number)
        cgroup = self.stack.enter_context(made(self.pods.name, f"{name}-{self._number}"))
        pod = Pod(name, netns, cgroup, family, marker)
        self.stack.callback(pod.end)
        return pod

    def _plug(self, netns: NetworkNamespace, number: int) -> None:
        with netns.entered(), IPRoute() as route:
            route.link(
                "add",
                ifname="eth0",
                kind="veth",
                peer={"ifname": f"pod{number}", "net_ns_fd": self.host.fd},
            )
            index = route.link_lookup(ifname="eth0")[0]
            route.link("set", index=index, state="up")
            route.addr("add", index=index, address=f"10.99.1.{number}", prefixlen=16)
            route.addr("add", index=index, address=f"fd99::1:{number}", prefixlen=64, flags=2)
        with self.host.entered(), IPRoute() as route:
            index, bridge = (route.link_lookup(ifname=name)[0] for name in (f"pod{number}", BRIDGE))
            route.link("set", index=index, master=bridge, state="up")

    def start_agent(self, programs: Programs) -> None:
        """Have an agent's half run, as a process that can be killed; returns when it is up."""
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._agent = os.fork()
        if self._agent == 0:
            _stand_alone({writing, self.host.fd, *programs.maps.values(), *programs.programs.values()})
            try:
                with self.host.entered():
                    agent = _AgentHalf(programs, self.pods, self.bpf_dir)
                    trio.run(agent.run, lambda: os.close(writing))
            finally:
                os._exit(1)
        os.close(writing)
        with open(reading) as file:  # noqa: PTH123 - a descriptor
            file.read()

    def kill_agent(self) -> None:
        """As by the kernel when memory runs out."""
        if self._agent is not None:
            os.kill(self._agent, signal.SIGKILL)
            os.waitpid(self._agent, 0)
            self._agent = None


class _AgentHalf:
    """Enrols and admits what waits; for enrolled pods, it answers where a proxy would carry the connection on."""

    def __init__(self, programs: Programs, pods: Path, bpf_dir: Path) -> None:
        self._pods = pods
        self._capture, self._hold = Capture(programs, bpf_dir), Hold(programs, bpf_dir)
        self._outside = Outside(self._hold, SECONDS)

    async def run(self, ready: Callable[[], None]) -> None:
        self._capture.set_prefixes(PREFIXES)
        self._capture.activate(find_cgroup2())
        self._hold.guard([self._pods])
        ready()
        async with trio.open_nursery() as nursery:
            while True:
                self._hold.drain_events()
                for found in self._hold.waiting():
                    with contextlib.suppress(InterceptorError):  # it is not in its namespace yet, or ended
                        self._classify(found, nursery)
                with trio.move_on_after(NOT_YET_SECONDS):
                    await trio.lowlevel.wait_readable(self._hold.events_fd)

    def _classify(self, found: Waiting, nursery: trio.Nursery) -> None:
        for cgroup in self._pods.iterdir():
            if not cgroup.is_dir() or found.cgroup_id not in (0, cgroup.stat().st_ino):
                continue
            for pid in (cgroup / "cgroup.procs").read_text().split():
                with kernel_netns.open_pid(int(pid)) as netns:
                    if netns.cookie() != found.cookie:
                        continue
                    if cgroup.name.startswith("in-"):
                        self._enrol(netns, found.cookie, nursery)
                    else:
                        self._outside.admit(netns, found.cookie, nursery)

    def _enrol(self, netns: NetworkNamespace, cookie: int, nursery: trio.Nursery) -> None:
        with contextlib.ExitStack() as undo:
            listeners = open_listeners(netns, undo)
            undo.pop_all()
        for listener in listeners[OUTBOUND_PORT]:
            nursery.start_soon(_answer, listener)
        own = tuple(found.address for found in netlink.addresses(netns))
        self._capture.enrol(netns, cookie, own, steering_slots(listeners))


async def _answer(listener: socket.socket) -> None:
    while True:
        await trio.lowlevel.wait_readable(listener)
        with contextlib.suppress(OSError):
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(f"proxy, for {sockets.original_destination(accepted)}".encode())
                await trio.lowlevel.checkpoint()


@contextlib.contextmanager
def pod_node(make_namespace: Callable[[str], NetworkNamespace]) -> Iterator[PodNode]:
    """A node whose pods have gone when it ends."""
    host, bpf_dir = make_namespace("host"), Path(f"/sys/fs/bpf/itest-pods-{os.getpid()}")
    with contextlib.ExitStack() as stack:
        pods = stack.enter_context(made(f"itest-pods-{os.getpid()}"))
        with host.entered(), IPRoute() as route:
            route.link("add", ifname=BRIDGE, kind="bridge")
            index = route.link_lookup(ifname=BRIDGE)[0]
            route.addr("add", index=index, address=HOST[socket.AF_INET], prefixlen=16)
            route.addr("add", index=index, address=HOST[socket.AF_INET6], prefixlen=64, flags=2)
            route.link("set", index=index, state="up")
        stack.callback(capture.release, bpf_dir)
        node = PodNode(host, pods, bpf_dir, stack)
        stack.callback(node.kill_agent)
        yield node
