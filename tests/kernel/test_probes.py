"""Who is taken for the kubelet: `neighbour` of the scene plays the host, one cgroup is the kubelet's."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel import abi, bpf_syscall, capture
from interceptor.kernel.abi import OUTBOUND_PORT, Counter, ListenerSlot
from interceptor.kernel.bpf_program import PROBE_PROGRAMS
from interceptor.kernel.capture import Capture
from interceptor.kernel.kubelet import find_kubelet_cgroup
from interceptor.kernel.mounts import find_cgroup2
from interceptor.kernel.probes import Probes
from tests.harness.cgroup import inside, made
from tests.kernel.scene import ADDRESSES, BPF_DIR, NEIGHBOUR, PREFIXES, WORKLOAD, Scene, families, join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interceptor.kernel.bpf_program import Programs
    from interceptor.kernel.netns import NetworkNamespace

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(60)]

PROBED, OTHER = 8080, 8081


@dataclass
class Pod(Scene):
    """The scene, with a kubelet on its host."""

    probes: Probes | None = None
    kubelet: Path | None = None

    def kubelets_socket(self, family: int) -> socket.socket:
        assert self.kubelet is not None
        with inside(self.kubelet):
            return self.socket(self.neighbour, family)

    def probe(self, family: int, port: int = PROBED) -> socket.socket:
        client = self.kubelets_socket(family)
        client.connect((WORKLOAD[family], port))
        return client

    def assert_steered(self, client: socket.socket) -> None:
        """The proxy has it: as plaintext from nobody that is known."""
        number = 4 if client.family == socket.AF_INET else 6
        accepted = self.accept(self.inbound[ListenerSlot[f"PLAINTEXT_IPV{number}"]])
        assert accepted.getpeername()[:2] == client.getsockname()[:2]

    def flows(self) -> list[bytes]:
        return bpf_syscall.map_keys(self.capture._maps["probe_flows"], len(bytes(abi.Ends())))

    def declare(self, *ports: int) -> None:
        assert self.probes is not None
        self.probes.set_ports(self.cookie, ADDRESSES, ports)


@pytest.fixture
def pod(make_namespace: Callable[[str], NetworkNamespace], programs: Programs) -> Iterator[Pod]:
    workload, neighbour = make_namespace("w"), make_namespace("n")
    join(workload, neighbour)
    with contextlib.ExitStack() as stack:
        kubelet = stack.enter_context(made(f"itest-kubelet-{os.getpid()}"))
        capture_ = Capture(programs, BPF_DIR)
        stack.callback(capture.release, BPF_DIR)
        with neighbour.entered():
            probes = Probes(programs, BPF_DIR)
        pod = Pod(workload, neighbour, capture_, workload.cookie(), stack, probes=probes, kubelet=kubelet)
        stack.callback(pod.declare)
        stack.callback(capture_.withdraw, pod.cookie)
        stack.callback(capture_.set_prefixes, ())
        pod.open_listeners()
        capture_.set_prefixes(PREFIXES)
        capture_.enrol(workload, pod.cookie, ADDRESSES, pod.inbound)
        capture_.activate(find_cgroup2())
        probes.recognise(kubelet)
        pod.declare(PROBED)
        yield pod


@families
def test_probe_of_a_declared_port_reaches_the_application(pod: Pod, family: int) -> None:
    application = pod.listen(pod.workload, WORKLOAD[family], PROBED)
    before = pod.count(Counter.PASSED_PROBES)
    client = pod.probe(family)
    pod.assert_direct(client, application)
    assert pod.count(Counter.PASSED_PROBES) == before + 1
    assert pod.flows() == []


def test_probe_from_a_socket_of_both_families_reaches_the_application(pod: Pod) -> None:
    application = pod.listen(pod.workload, WORKLOAD[socket.AF_INET], PROBED)
    client = pod.kubelets_socket(socket.AF_INET6)
    client.connect((f"::ffff:{WORKLOAD[socket.AF_INET]}", PROBED))
    accepted = pod.accept(application)
    assert accepted.getpeername()[1] == client.getsockname()[1]


@families
def test_kubelets_connection_to_another_port_is_the_proxys(pod: Pod, family: int) -> None:
    pod.listen(pod.workload, WORKLOAD[family], OTHER)
    before = pod.count(Counter.PASSED_PROBES)
    pod.assert_steered(pod.probe(family, OTHER))
    assert pod.count(Counter.PASSED_PROBES) == before


@families
def test_other_process_of_the_host_is_the_proxys(pod: Pod, family: int) -> None:
    """It has the kubelet's address, and goes to the declared port, also while a probe is there."""
    application = pod.listen(pod.workload, WORKLOAD[family], PROBED)
    pod.assert_direct(pod.probe(family), application)
    client = pod.connect(pod.neighbour, family, WORKLOAD[family], PROBED)
    pod.assert_steered(client)


@families
def test_port_that_a_probe_had_is_worth_nothing_afterwards(pod: Pod, family: int) -> None:
    """The same four numbers, used again by somebody else."""
    application = pod.listen(pod.workload, WORKLOAD[family], PROBED)
    probe = pod.kubelets_socket(family)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    probe.connect((WORKLOAD[family], PROBED))
    ends = probe.getsockname()
    application.accept()[0].close()
    probe.close()
    client = pod.socket(pod.neighbour, family)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind(ends)
    client.connect((WORKLOAD[family], PROBED))
    pod.assert_steered(client)


@families
def test_probe_that_is_refused_leaves_nothing_behind(pod: Pod, family: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        pod.probe(family)
    assert pod.flows() == []


@families
def test_socket_of_a_process_that_moved_into_the_kubelets_cgroup_is_the_proxys(pod: Pod, family: int) -> None:
    pod.listen(pod.workload, WORKLOAD[family], PROBED)
    client = pod.socket(pod.neighbour, family)
    assert pod.kubelet is not None
    with inside(pod.kubelet):
        client.connect((WORKLOAD[family], PROBED))
    pod.assert_steered(client)


def test_other_namespace_with_the_kubelets_address_is_the_proxys(
    pod: Pod, make_namespace: Callable[[str], NetworkNamespace]
) -> None:
    """Even in its cgroup: the kubelet is in the host's namespace."""
    pod.listen(pod.workload, WORKLOAD[socket.AF_INET], PROBED)
    double = make_namespace("d")
    with pod.workload.entered(), IPRoute() as route:
        route.link("del", index=route.link_lookup(ifname="eth0")[0])
    join(pod.workload, double)
    assert pod.kubelet is not None
    with inside(pod.kubelet):
        client = pod.socket(double, socket.AF_INET)
    client.connect((WORKLOAD[socket.AF_INET], PROBED))
    assert client.getsockname()[0] == NEIGHBOUR[socket.AF_INET]
    pod.assert_steered(client)


def test_ports_that_are_declared_no_more_are_the_proxys(pod: Pod) -> None:
    pod.listen(pod.workload, WORKLOAD[socket.AF_INET], PROBED)
    application = pod.listen(pod.workload, WORKLOAD[socket.AF_INET], OTHER)
    pod.declare(OTHER)
    pod.assert_steered(pod.probe(socket.AF_INET, PROBED))
    pod.assert_direct(pod.probe(socket.AF_INET, OTHER), application)
    pod.declare()
    pod.assert_steered(pod.probe(socket.AF_INET, OTHER))


def test_probes_go_on_when_the_agent_is_dead(pod: Pod) -> None:
    """A node agent that dies must not make pods unhealthy; everything else is refused."""
    application = pod.listen(pod.workload, WORKLOAD[socket.AF_INET], PROBED)
    pod.close_listeners()
    pod.assert_direct(pod.probe(socket.AF_INET), application)
    with pytest.raises(ConnectionRefusedError):
        pod.connect(pod.neighbour, socket.AF_INET, WORKLOAD[socket.AF_INET], PROBED)


def test_port_of_the_proxys_own_cannot_be_declared(pod: Pod) -> None:
    with pytest.raises(EnrolmentError, match=f"port {OUTBOUND_PORT} is the proxy's own"):
        pod.declare(PROBED, OUTBOUND_PORT)
    application = pod.listen(pod.workload, WORKLOAD[socket.AF_INET], PROBED)
    pod.assert_direct(pod.probe(socket.AF_INET), application)


def test_more_ports_than_fit_are_an_error_and_are_removed_with_the_next_set(pod: Pod) -> None:
    assert pod.probes is not None
    many = [ip_address(0x0A630A00 + number) for number in range(abi.MAX_PROBE_TARGETS + 10)]
    with pytest.raises(EnrolmentError, match=f"at most {abi.MAX_PROBE_TARGETS}"):
        pod.probes.set_ports(1, many, [1])
    pod.probes.set_ports(1, [], [])
    fd = pod.capture._maps["probe_targets"]
    assert len(bpf_syscall.map_keys(fd, len(bytes(abi.ProbeTarget())))) == len(ADDRESSES)


def test_kubelet_that_is_started_again_is_recognised(pod: Pod) -> None:
    assert pod.probes is not None
    application = pod.listen(pod.workload, WORKLOAD[socket.AF_INET], PROBED)
    for _ in range(2):
        with made(f"itest-kubelet-again-{os.getpid()}") as again:
            pod.probes.recognise(again)
            pod.probes.recognise(again)
            pod.kubelet = again
            pod.assert_direct(pod.probe(socket.AF_INET), application)
            assert len(list(BPF_DIR.glob("probes_*"))) == len(PROBE_PROGRAMS)
    with pytest.raises(KernelError, match=r"cannot open the kubelet's cgroup .*No such file"):
        pod.probes.recognise(again)
    pod.probes.recognise(None)
    assert list(BPF_DIR.glob("probes_*")) == []


def test_root_of_all_cgroups_is_nobodys(pod: Pod) -> None:
    assert pod.probes is not None
    with pytest.raises(KernelError, match="root of cgroup v2, in which every process is"):
        pod.probes.recognise(find_cgroup2())
    pod.listen(pod.workload, WORKLOAD[socket.AF_INET], PROBED)
    pod.assert_steered(pod.connect(pod.neighbour, socket.AF_INET, WORKLOAD[socket.AF_INET], PROBED))


# Finding it.


@dataclass
class Processes:
    """A directory that looks like /proc."""

    directory: Path
    number: int = 100

    def add(self, comm: str, cgroup: str, *, uid: int = 0, netns: str = "host") -> None:
        process = self.directory / str(self.number)
        self.number += 1
        (process / "ns").mkdir(parents=True)
        (process / "comm").write_text(f"{comm}\n")
        (process / "cgroup").write_text(f"12:cpu:/other\n0::{cgroup}\n")
        (process / "ns/net").symlink_to(self.directory / netns)
        os.chown(process, uid, uid)


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    for name in ("host", "pod"):
        (tmp_path / name).touch()
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/net").symlink_to(tmp_path / "host")
    found = Processes(tmp_path)
    found.add("bash", "/user.slice")
    (tmp_path / "99").mkdir()  # a process that ended just now
    return found


ROOT, PODS = Path("/cgroup"), Path("/cgroup/kubepods.slice")


def test_kubelet_is_found_by_its_name_among_the_hosts_processes(processes: Processes) -> None:
    processes.add("kubelet", "/system.slice/kubelet.service")
    processes.add("kubelet", "/system.slice/kubelet.service")
    processes.add("kubelet", "/kubepods.slice/pod1/abc")
    processes.add("kubelet", "/user.slice", uid=1000)
    processes.add("kubelet", "/machine.slice", netns="pod")
    found = find_kubelet_cgroup(ROOT, PODS, processes.directory)
    assert found == ROOT / "system.slice/kubelet.service"


@pytest.mark.parametrize(
    ("cgroups", "message"),
    [
        ([], "no process of root outside of the pods is named kubelet"),
        (["/a", "/b"], "found /cgroup/a, /cgroup/b"),
        (["/"], "found /cgroup"),
    ],
    ids=["none", "two", "root"],
)
def test_kubelet_that_cannot_be_told_is_an_error_that_says_what_to_set(
    processes: Processes, cgroups: list[str], message: str
) -> None:
    for cgroup in cgroups:
        processes.add("kubelet", cgroup)
    with pytest.raises(KernelError, match=f"{message}.*set kubernetes.kubeletCgroup"):
        find_kubelet_cgroup(ROOT, PODS, processes.directory)
