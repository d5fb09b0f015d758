"""Numbers and names that no other test process on this machine uses, and the sweeping of what killed runs left.

A slot N owns the directory /tmp/itest-NN, links whose names begin with itestNN, the pins in /sys/fs/bpf/itestNN, the
cgroup itestNN, the networks below, and one port on loopback.  The kernel lets go of its lock when the process dies: whoever takes the slot
next sweeps first.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from interceptor.errors import EnrolmentError
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.keyring import Keyring
from interceptor.kernel.mounts import find_cgroup2
from tests.harness.process import CLI, Journal, run, wait_until

SLOTS = range(10, 90)
_LOCKS = Path("/run/itest")
_BPF = Path("/sys/fs/bpf")
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Slot:
    """One number of ours, until `release`."""

    def __init__(self, number: int, lock: int) -> None:
        self.number = number
        self._lock = lock
        self.name = f"itest{number}"
        self.directory = Path(f"/tmp/itest-{number}")
        self.bpf_dir = _BPF / self.name
        self.cgroup = find_cgroup2() / self.name  # made by whoever needs it
        self.metrics_port = 21000 + number
        # RFC 2544's range for tests of network devices: no machine has it in use.
        self.mesh_ipv4 = IPv4Network(f"198.18.{number}.0/24")
        self.mesh_ipv6 = IPv6Network(f"fd5e:{number}::/64")
        self.outside_ipv4 = IPv4Network(f"198.19.{number}.0/24")
        self.outside_ipv6 = IPv6Network(f"fd5e:{number}:0:1::/64")
        # With these prefix lengths a namespace outside of the mesh has the mesh's addresses on its link.
        self.wide_ipv4_prefix, self.wide_ipv6_prefix = 15, 48
        self.journal = Journal(self.directory / "processes")

    @property
    def bridge_ipv4(self) -> IPv4Interface:
        return IPv4Interface(f"{self.mesh_ipv4[1]}/{self.mesh_ipv4.prefixlen}")

    @property
    def bridge_ipv6(self) -> IPv6Interface:
        return IPv6Interface(f"{self.mesh_ipv6[1]}/{self.mesh_ipv6.prefixlen}")

    def release(self) -> None:
        """Remove everything of this slot, and let another process have it."""
        self.sweep()
        os.close(self._lock)

    def sweep(self) -> None:
        """Remove whatever bears this slot's names; nothing there is fine."""
        self.journal.kill_survivors()
        _kill_inside(self.directory)
        _remove_cgroup(self.cgroup)
        config = self.directory / "config.yaml"
        if config.exists() and (self.bpf_dir.exists() or (self.directory / "run").exists()):
            run([CLI, "--config", config, "down"], timeout=60)
        Keyring(f"interceptor node {self.directory / 'state'}").remove()
        _unmount_below(self.directory)
        _remove_links(self.name)
        if self.bpf_dir.is_dir():
            for pin in self.bpf_dir.iterdir():
                pin.unlink()
            self.bpf_dir.rmdir()
        if self.directory.exists():
            shutil.rmtree(self.directory)


def acquire() -> Slot:
    """A slot with an empty directory of its own."""
    _LOCKS.mkdir(mode=0o700, exist_ok=True)
    for number in SLOTS:
        slot = _try(number)
        if slot is not None:
            slot.sweep()
            slot.directory.mkdir(mode=0o711)  # not 0700: servers under another user keep their files in here
            return slot
    raise AssertionError("every slot for test nodes is taken: are other test runs hanging?")


def sweep_all() -> None:
    """Remove what runs of this harness left that were killed; slots in use are left alone."""
    if not _LOCKS.is_dir():
        return
    for number in SLOTS:
        if (_LOCKS / f"{number}.lock").exists() and (slot := _try(number)) is not None:
            slot.release()


def _try(number: int) -> Slot | None:
    lock = os.open(_LOCKS / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return Slot(number, lock)


def _kill_inside(directory: Path) -> None:
    """End what runs in network namespaces that are bound below a directory: servers' children are in no journal."""
    for path in _mount_points_below(directory):
        with (
            contextlib.suppress(EnrolmentError),
            kernel_netns.open_path(path) as netns,
        ):  # it is something else
            for pid in netns.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _remove_cgroup(cgroup: Path) -> None:
    """End what runs in a cgroup, and remove it; none there is fine."""
    if not cgroup.exists():
        return

    def is_empty() -> bool:
        pids = (cgroup / "cgroup.procs").read_text().split()
        for pid in map(int, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    for inner in [path for path in cgroup.iterdir() if path.is_dir()]:
        _remove_cgroup(inner)
    wait_until(is_empty, f"{cgroup} is empty")

    def is_gone() -> bool:
        with contextlib.suppress(OSError):  # busy for a moment after its last process has ended
            cgroup.rmdir()
        return not cgroup.exists()

    wait_until(is_gone, f"{cgroup} can be removed")


def _unmount_below(directory: Path) -> None:
    for path in reversed(_mount_points_below(directory)):
        _libc.umount2(os.fsencode(path), _MNT_DETACH)


def _mount_points_below(directory: Path) -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mount_points = [line.split()[4] for line in lines]
    return [Path(path) for path in mount_points if path.startswith(f"{directory}/")]


def _remove_links(prefix: str) -> None:
    with IPRoute() as route:
        for link in list(route.get_links()):
            name = link.get("ifname")
            if name == prefix or name.startswith(f"{prefix}-"):
                with contextlib.suppress(NetlinkError):  # a veth pair goes together
                    route.link("del", index=link["index"])
