"""The network namespaces of pods: found by their cgroups, whose names bear the pods' UIDs, through /proc.

Who is in a pod's cgroup is said by the container runtime alone: nothing that a pod calls itself or its addresses counts.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel import netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.node_pods.pod_cgroup import (
    PARENTS,
    is_class_cgroup,
    is_static_pod_cgroup,
    uid_of_pod_cgroup,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.workload import IPAddress

MAX_DEPTH = 3  # of the containers' cgroups below the pod's: what is deeper was made by a container itself
MAX_CGROUPS = 2000  # of one pod that are looked at


def find_pods_cgroup(root: Path) -> Path | None:
    """The cgroup of all pods below the root of cgroup v2; None while there is none."""
    return next((root / name for name in PARENTS if (root / name).is_dir()), None)


@dataclass(frozen=True, slots=True)
class PodCgroups:
    """The cgroups of the pods of a node: by UID, and those of static pods, which have none."""

    by_uid: Mapping[str, Path]
    static: tuple[Path, ...]


def pod_cgroups(pods: Path) -> PodCgroups:
    """What is below the cgroup of all pods now; KernelError when it cannot be read."""
    try:
        paths = list(_directories(pods))
        paths += [path for each in paths if is_class_cgroup(each.name) for path in _directories(each)]
    except OSError as error:
        raise KernelError(f"cannot look for pods in the cgroup {pods}: {error.strerror}") from error
    by_uid = {uid: path for path in paths if (uid := uid_of_pod_cgroup(path.name)) is not None}
    return PodCgroups(by_uid, tuple(path for path in paths if is_static_pod_cgroup(path.name)))


def open_all(cgroup: Path) -> Iterator[NetworkNamespace]:
    """Every network namespace that a process of a pod is in, but for the host's; the caller closes each."""
    for pids in _namespaces(cgroup).values():
        with suppress(EnrolmentError):  # it ended just now
            yield kernel_netns.open_pid(pids[0])


def open_pod(cgroup: Path, addresses: Collection[IPAddress]) -> tuple[int, NetworkNamespace]:
    """A process of a pod, and its network namespace, which has one of these addresses; the caller closes it.

    EnrolmentError says why there is none (yet).
    """
    namespaces = _namespaces(cgroup)
    if not namespaces:
        raise EnrolmentError(f"no process with a network namespace of its own is in {cgroup} yet")
    # The process that was there first holds the namespace of the whole pod; others were made in there.
    for pid in sorted((min(pids, key=_age) for pids in namespaces.values()), key=_age):
        with suppress(EnrolmentError), ExitStack() as undo:
            netns = undo.enter_context(kernel_netns.open_pid(pid))
            # Another process may have got the number since.
            if pid in _processes(cgroup) and _owns(netns, addresses):
                undo.pop_all()
                return pid, netns
    shown = ", ".join(map(str, addresses))
    raise EnrolmentError(f"no network namespace in {cgroup} has the address {shown} that the API shows")


def _owns(netns: NetworkNamespace, addresses: Collection[IPAddress]) -> bool:
    """One of them is enough: a pod may have the other family switched off, or get its address later."""
    return not {found.address for found in netlink.addresses(netns)}.isdisjoint(addresses)


def _namespaces(cgroup: Path) -> dict[tuple[int, int], list[int]]:
    """The processes in a cgroup and below, by device and inode of their network namespaces, but for the host's."""
    with kernel_netns.current() as ours:
        besides = (ours.device, ours.inode)
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
