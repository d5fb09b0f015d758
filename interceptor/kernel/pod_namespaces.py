"""The network namespaces of pods: found by their cgroups, whose names bear the pods' UIDs, through /proc.

Who is in a pod's cgroup is said by the container runtime alone: nothing that a pod calls itself or its addresses counts.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel import netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.node_pods.pod_cgroup import PARENTS, is_class_cgroup, uid_of_pod_cgroup

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.workload import IPAddress

MAX_DEPTH = 3  # of the containers' cgroups below the pod's: what is deeper was made by a container itself
MAX_CGROUPS = 2000  # of one pod that are looked at


def find_pods_cgroup(root: Path) -> Path | None:
    """The cgroup of all pods below the root of cgroup v2; None while there is none."""
    return next((root / name for name in PARENTS if (root / name).is_dir()), None)


def pod_cgroups(pods: Path) -> dict[str, Path]:
    """The cgroup of each pod below that of all pods, by the pod's UID; KernelError when it cannot be read."""
    found: dict[str, Path] = {}
    try:
        for path in _directories(pods):
            uid = uid_of_pod_cgroup(path.name)
            if uid is not None:
                found[uid] = path
            elif is_class_cgroup(path.name):
                inside = ((uid_of_pod_cgroup(each.name), each) for each in _directories(path))
                found.update({uid: each for uid, each in inside if uid is not None})
    except OSError as error:
        raise KernelError(f"cannot look for pods in the cgroup {pods}: {error.strerror}") from error
    return found


def open_pod(cgroup: Path, addresses: Collection[IPAddress]) -> tuple[int, NetworkNamespace]:
    """A process of a pod, and its network namespace, which has these addresses; the caller closes it.

    EnrolmentError says why there is none (yet).
    """
    with kernel_netns.current() as ours:
        namespaces = _processes_by_namespace(cgroup, (ours.device, ours.inode))
    if not namespaces:
        raise EnrolmentError(f"no process with a network namespace of its own is in {cgroup} yet")
    for pids in namespaces.values():
        pid = min(pids, key=_age)  # the one that was there first holds the namespace of the whole pod
        with suppress(EnrolmentError), ExitStack() as undo:
            netns = undo.enter_context(kernel_netns.open_pid(pid))
            # Another process may have got the number since.
            if pid in _processes(cgroup) and _owns(netns, addresses):
                undo.pop_all()
                return pid, netns
    shown = ", ".join(map(str, addresses))
    raise EnrolmentError(f"no network namespace in {cgroup} has the address {shown} that the API shows")


def _owns(netns: NetworkNamespace, addresses: Collection[IPAddress]) -> bool:
    return {found.address for found in netlink.addresses(netns)}.issuperset(addresses)


def _processes_by_namespace(cgroup: Path, besides: tuple[int, int]) -> dict[tuple[int, int], list[int]]:
    """The processes in a cgroup and below, by device and inode of their network namespaces, but for one namespace."""
    found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for pid in _processes(cgroup):
        with suppress(OSError):  # it ended just now
            status = Path(f"/proc/{pid}/ns/net").stat()
            if (status.st_dev, status.st_ino) != besides:
                found[status.st_dev, status.st_ino].append(pid)
    return found


def _processes(cgroup: Path) -> set[int]:
    found: set[int] = set()
    for path in _below(cgroup):
        with suppress(OSError):  # it was removed just now
            found.update(map(int, (path / "cgroup.procs").read_text("ascii").split()))
    return found - {0}  # of another pid namespace: nobody that we could enter


def _below(cgroup: Path) -> list[Path]:
    level, found = [cgroup], [cgroup]
    for _ in range(MAX_DEPTH):
        below: list[Path] = []
        for path in level:
            with suppress(OSError):
                below += _directories(path)
        found += below
        level = below
        if len(found) > MAX_CGROUPS:
            break
    return found[:MAX_CGROUPS]


def _directories(path: Path) -> Iterator[Path]:
    with os.scandir(path) as entries:
        yield from [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _age(pid: int) -> tuple[int, int]:
    """When a process started, in clock ticks since boot (proc(5)); last of all when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19]), pid
    except (OSError, IndexError):
        return 1 << 62, pid
