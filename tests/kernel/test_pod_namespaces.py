"""A pod's network namespace is found by who is in its cgroup, and only one that has the pod's address is it."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.pod_namespaces import find_pods_cgroup, open_all, open_pod, pod_cgroups
from tests.harness.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.netns

ADDRESS = ip_address("198.18.9.1")
OTHER = ip_address("198.18.9.2")
INSIDE = (
    "ip link add veth0 type veth peer name veth1 && ip address add $0/24 dev veth0 && ip link set veth0 up "
    "&& exec sleep 60"
)


@contextlib.contextmanager
def process(*command: str) -> Iterator[int]:
    """A program that runs meanwhile; its pid."""
    running = subprocess.Popen(command)
    try:
        yield running.pid
    finally:
        running.kill()
        running.wait()


@contextlib.contextmanager
def with_address(address: object) -> Iterator[int]:
    """A process in a network namespace of its own that has an address."""
    with process("unshare", "--net", "sh", "-c", INSIDE, str(address)) as pid:
        comm = Path(f"/proc/{pid}/comm")
        wait_until(lambda: comm.read_text().strip() == "sleep", "the address is there")
        yield pid


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """Looks like a pod's cgroup; who is in it is written into it by the test."""
    made = tmp_path / "kubepods" / "burstable" / f"pod{uuid.uuid4()}" / "container"
    made.mkdir(parents=True)
    (made.parent / "cgroup.procs").write_text("")
    put(made)
    return made


def put(cgroup: Path, *pids: int) -> None:
    (cgroup / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))


def test_namespace_with_the_address_is_found_among_those_of_the_pod(cgroup: Path) -> None:
    with with_address(OTHER) as other, with_address(ADDRESS) as own, process("sleep", "60") as of_the_host:
        put(cgroup, of_the_host, other, own, 0, 2**22)
        pid, netns = open_pod(cgroup.parent, (ADDRESS,))
        with netns, kernel_netns.open_pid(own) as expected:
            assert pid == own
            assert netns.is_same_as(expected)
        found = list(open_all(cgroup.parent))
        assert len(found) == 2
        for each in found:
            each.close()


def test_one_of_the_addresses_is_enough_and_the_oldest_namespace_is_the_pods(cgroup: Path) -> None:
    both = (OTHER, ADDRESS)
    with with_address(ADDRESS) as own, with_address(ADDRESS) as later:
        put(cgroup, later, own)
        pid, netns = open_pod(cgroup.parent, both)
        netns.close()
        assert pid == own


def test_namespace_without_the_address_is_not_the_pods(cgroup: Path) -> None:
    with with_address(OTHER) as other:
        put(cgroup, other)
        with pytest.raises(EnrolmentError, match=f"has the address {ADDRESS} that the API shows"):
            open_pod(cgroup.parent, (ADDRESS,))


def test_namespace_of_the_host_is_no_pods(cgroup: Path) -> None:
    with process("sleep", "60") as of_the_host:
        put(cgroup, of_the_host)
        with pytest.raises(EnrolmentError, match="no process with a network namespace of its own"):
            open_pod(cgroup.parent, (ADDRESS,))
        assert list(open_all(cgroup.parent)) == []


def test_pods_are_found_below_the_cgroups_of_both_drivers(tmp_path: Path, cgroup: Path) -> None:
    assert find_pods_cgroup(tmp_path) == tmp_path / "kubepods"
    uid = cgroup.parent.name.removeprefix("pod")
    other = str(uuid.uuid4())
    (tmp_path / "kubepods" / f"pod{other}").mkdir()
    static = tmp_path / "kubepods" / "burstable" / f"pod{'0a' * 16}"
    static.mkdir()
    (tmp_path / "kubepods" / "system.slice").mkdir()
    found = pod_cgroups(tmp_path / "kubepods")
    assert found.by_uid == {uid: cgroup.parent, other: tmp_path / "kubepods" / f"pod{other}"}
    assert found.static == (static,)
    slice_ = tmp_path / "kubepods.slice" / "kubepods-besteffort.slice"
    (slice_ / f"kubepods-besteffort-pod{uid.replace('-', '_')}.slice").mkdir(parents=True)
    assert find_pods_cgroup(tmp_path) == tmp_path / "kubepods.slice"
    assert set(pod_cgroups(tmp_path / "kubepods.slice").by_uid) == {uid}


def test_cgroup_of_all_pods_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert find_pods_cgroup(tmp_path) is None
    with pytest.raises(KernelError, match="cannot look for pods in the cgroup"):
        pod_cgroups(tmp_path / "kubepods")
