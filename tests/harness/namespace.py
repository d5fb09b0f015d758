"""Where a test's programs run: network namespaces on the node's bridge, in the mesh (Workload) or not (Namespace)."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import struct
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from pyroute2 import IPRoute

from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.netlink import GUEST_LINK
from tests.harness.patience import patient
from tests.harness.process import Program, Result, read_line, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from tests.harness.process import Journal

_LISTEN_STATE = "0A"  # proc_net_tcp.txt: TCP_LISTEN


class Namespace:
    """A network namespace with a link on the node's bridge.

    ipv4, ipv6    its addresses, as text
    host_link     the host's end of its veth pair: what `Wire` sniffs
    netns_path    where it can be opened
    name          its name in the test, and for a Workload in the mesh
    """

    def __init__(
        self,
        name: str,
        netns_path: Path,
        host_link: str,
        addresses: Sequence[IPv4Address | IPv6Address],
        directory: Path,
        journal: Journal,
    ) -> None:
        self.name = name
        self.netns_path = netns_path
        self.netns = kernel_netns.open_path(str(netns_path))
        self.host_link = host_link
        self.ipv4 = next(str(address) for address in addresses if address.version == 4)
        self.ipv6 = next(str(address) for address in addresses if address.version == 6)
        self.directory = directory  # for the files of its programs
        self._journal = journal
        self._programs: list[Program] = []
        self._numbers = itertools.count(1)

    def address(self, family: int) -> str:
        """Its address of a family (socket.AF_INET or AF_INET6)."""
        return self.ipv4 if family == socket.AF_INET else self.ipv6

    def url(self, family: int, path: str = "/", port: int = 80) -> str:
        """http://<its address>:<port><path>"""
        host = self.ipv4 if family == socket.AF_INET else f"[{self.ipv6}]"
        return f"http://{host}:{port}{path}"

    # Programs.

    def enter(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` in here."""
        return ["nsenter", f"--net={self.netns_path}", "--", *map(str, command)]

    def run(
        self,
        *command: str | Path,
        timeout: float = 30,
        input_bytes: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a program in here to its end."""
        return run(self.enter(command), timeout=timeout, input_bytes=input_bytes, env=env)

    def spawn(
        self,
        *command: str | Path,
        ready_port: int | None = None,
        timeout: float = 20,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Program:
        """Start a program in here; returns when somebody listens on `ready_port`, if one is given.

        It is ended, with everything that it started in here, when the namespace is closed.
        """
        stem = self.directory / f"{self.name}-{next(self._numbers)}-{Path(str(command[0])).name}"
        program = Program(self.enter(command), stem, self._journal, env=env, cwd=cwd)
        self._programs.append(program)
        if ready_port is not None:
            program.wait_until(
                lambda: ready_port in self.listening_ports(), f"listens on port {ready_port}", timeout
            )
        return program

    def listening_ports(self) -> set[int]:
        """TCP ports that somebody listens on in here, on any address, the proxy's own included."""
        ports = set()
        with self.netns.entered():
            for table in ("tcp", "tcp6"):
                with contextlib.suppress(FileNotFoundError), open(f"/proc/thread-self/net/{table}") as file:  # noqa: PTH123
                    for line in itertools.islice(file, 1, None):
                        fields = line.split()
                        if fields[3] == _LISTEN_STATE:
                            ports.add(int(fields[1].rpartition(":")[2], 16))
        return ports

    # Sockets of the test itself, that live in here: the kernel captures by the socket's namespace, not by the process.

    def open_socket(
        self,
        family: int = socket.AF_INET,
        kind: int = socket.SOCK_STREAM,
        proto: int = 0,
        *,
        timeout: float = 10,
    ) -> socket.socket:
        """A new socket in here; close it (`with`)."""
        sock = self.netns.open_socket(family, kind, proto)
        sock.settimeout(patient(timeout))
        return sock

    def listen(self, family: int = socket.AF_INET, port: int = 0, *, timeout: float = 10) -> socket.socket:
        """A listening TCP socket on this namespace's address; its port is free if none is given."""
        sock = self.open_socket(family, timeout=timeout)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.address(family), port))
            sock.listen(1024)
        except BaseException:
            sock.close()
            raise
        return sock

    def connect(self, address: tuple[str, int], *, timeout: float = 10) -> socket.socket:
        """A TCP socket in here, connected; whatever connect(2) said is raised."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = self.open_socket(family, timeout=timeout)
        try:
            sock.connect(address)
        except BaseException as error:
            if isinstance(error, TimeoutError):
                error.add_note(self.describe())
            sock.close()
            raise
        return sock

    def describe(self) -> str:
        """Its links, addresses, routes and sockets as they are now: for the message of a failure."""
        questions = (
            "ip -details address",
            "ip route show table all",
            "ip -6 route show table all",
            "ip neighbour",
        )
        answers = [self.run(*question.split()) for question in (*questions, "ss -tanpeio", "nstat -asz")]
        texts = [f"{' '.join(answer.command)}\n{answer.stdout[:6000]}{answer.stderr}" for answer in answers]
        return "\n".join([repr(self), *texts])

    # Network.

    def add_address(self, interface: str) -> None:
        """Give its link another address, as "10.0.0.1/24"."""
        address, _, prefix = interface.partition("/")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        flags = 2 if family == socket.AF_INET6 else 0  # IFA_F_NODAD: usable at once
        with self._route_socket() as route:
            index = route.link("get", ifname=GUEST_LINK)[0]["index"]
            route.addr("add", index=index, family=family, address=address, prefixlen=int(prefix), flags=flags)

    def add_route(self, network: IPv4Network | IPv6Network) -> None:
        """Have a network on its link."""
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        with self._route_socket() as route:
            index = route.link("get", ifname=GUEST_LINK)[0]["index"]
            route.route("replace", family=family, dst=str(network), oif=index)

    def _route_socket(self) -> IPRoute:
        with self.netns.entered():
            return IPRoute()

    # The end.

    def stop_programs(self) -> None:
        """End every program that was spawned in here, and what those left behind in here."""
        for program in reversed(self._programs):
            program.stop()
        self._programs.clear()
        for pid in self._strangers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self._strangers(), f"programs in {self.name} have ended")

    def _strangers(self) -> tuple[int, ...]:
        return self.netns.processes()

    def close(self) -> None:
        """End its programs and remove it."""
        self.stop_programs()
        self.netns.close()
        kernel_netns.remove_named(self.netns_path)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.ipv4} {self.ipv6}>"


class Workload(Namespace):
    """A namespace that `interceptor run` made: enrolled for as long as its holder runs.

    Programs run in the holder's network and mount namespaces, as if `interceptor run` had started them.
    """

    def __init__(
        self,
        name: str,
        facts: Mapping[str, object],
        host_link: str,
        holder: Holder,
        directory: Path,
        journal: Journal,
    ) -> None:
        addresses = [ip_address(address) for address in facts["addresses"]]
        super().__init__(name, Path(str(facts["netns"])), host_link, addresses, directory, journal)
        self.identity = str(facts["identity"])
        self.namespace = str(facts["namespace"])
        self.facts = facts
        self.holder = holder
        self.prefix: Sequence[str] = ()  # of every command line that runs in here

    def enter(self, command: Sequence[str | Path]) -> list[str]:
        inside = ["nsenter", f"--target={self.holder.child_pid}", "--net", "--mount", "--"]
        return [*self.prefix, *inside, *map(str, command)]

    def _strangers(self) -> tuple[int, ...]:
        return tuple(pid for pid in self.netns.processes() if pid != self.holder.child_pid)

    def close(self) -> None:
        """End its programs and its holder: it is withdrawn, and its namespace goes with it."""
        self.stop_programs()
        self.netns.close()
        self.holder.stop()


class EnrolledNamespace(Namespace):
    """A namespace that the test made and `interceptor enrol` took in; `identity` as the agent said."""

    identity: str
    namespace: str
    facts: Mapping[str, object]


class Holder:
    """`interceptor run` with a command that does nothing, for as long as the workload is needed."""

    def __init__(self, command: Sequence[str], error_path: Path, journal: Journal) -> None:
        """Start it, and wait until its command runs; AssertionError with what it printed if it does not."""
        with error_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*command, "sh", "-c", "echo $$; exec sleep infinity"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        journal.add(self.process.pid)
        assert self.process.stdout is not None
        line = read_line(self.process.stdout.fileno(), timeout=30)
        if not line.strip().isdecimal():
            self.stop()
            raise AssertionError(
                f"{' '.join(command)} did not start: {error_path.read_text(errors='replace')}"
            )
        self.child_pid = int(line)

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> int:
        """End it as a person would, by SIGTERM; returns its exit status."""
        assert self.process.stdout is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(20)
        finally:
            self.process.stdout.close()


LINGER_RESET = struct.pack("=ii", 1, 0)  # SO_LINGER: close(2) resets


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    sock.close()
