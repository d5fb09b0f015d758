"""The file systems that the kernel hooks need: where cgroup v2 is mounted, and a BPF file system for pins."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interceptor.errors import KernelError

PROC_SYS: Final = Path("/proc/sys")
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 2, 4, 8, 32, 4096
_KERNELS_OWN = {"maps.debug", "progs.debug"}  # the kernel puts these into every BPF file system
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo, as far as it is of interest."""

    mount_point: Path
    file_system: str
    root: str


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts of /proc/PID/mountinfo (proc(5)); octal escapes in paths are undone."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if separator and len(fields) > 4:
            path = fields[4].encode().decode("unicode_escape")
            mounts.append(Mount(Path(path), kinds[0], fields[3]))
    return mounts


def find_cgroup2(mountinfo: Path = Path("/proc/self/mountinfo")) -> Path:
    """Where cgroup v2 is mounted: /sys/fs/cgroup, or beside version 1 on a hybrid system."""
    for mount in parse_mountinfo(mountinfo.read_text(encoding="utf-8")):
        if mount.file_system == "cgroup2" and mount.root == "/":
            return mount.mount_point
    raise KernelError(
        "cgroup v2 is not mounted, capture attaches to it: mount -t cgroup2 none /sys/fs/cgroup/unified, "
        "or boot with systemd.unified_cgroup_hierarchy=1"
    )


def where_cgroup_is_mounted(cgroup: str, mounts: list[Mount]) -> Path | None:
    """Where a cgroup of version 2, as /proc/PID/cgroup names it, can be seen; None where it cannot.

    In a cgroup namespace of our own (as containers have) its path begins with as many `..` as that of a mount of the
    host's root, and may end in names (cgroup_namespaces(7)).
    """
    parts = [part for part in cgroup.split("/") if part]
    for mount in mounts:
        root = [part for part in mount.root.split("/") if part]
        below = parts[len(root) :]
        if mount.file_system == "cgroup2" and parts[: len(root)] == root and ".." not in below:
            return mount.mount_point.joinpath(*below)
    return None


def is_bpffs(path: Path) -> bool:
    """Whether `path` (or the nearest directory above it that exists) is in a BPF file system."""
    while not path.exists():
        path = path.parent
    return any(
        mount.file_system == "bpf" and path.is_relative_to(mount.mount_point)
        for mount in parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    )


def mount_bpffs(path: Path) -> bool:
    """Mount a BPF file system, as systemd does at boot on most machines; False if somebody just did."""
    if _libc.mount(b"bpf", os.fsencode(path), b"bpf", ctypes.c_ulong(0), b"mode=0700") != 0:
        reason = os.strerror(ctypes.get_errno())
        raise KernelError(f"cannot mount a BPF file system at {path}: {reason}")
    mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    if sum(mount.file_system == "bpf" and mount.mount_point == path for mount in mounts) < 2:
        return True
    # Ours would hide what is pinned in the other one.  If that other agent is using ours already, it stays.
    return bool(_libc.umount2(os.fsencode(path), 0) != 0)


def unmount_bpffs(path: Path) -> bool:
    """Undo `mount_bpffs` if nothing is pinned there any more; whether it was unmounted."""
    if not path.is_mount() or {entry.name for entry in path.iterdir()} - _KERNELS_OWN:
        return False
    return bool(_libc.umount2(os.fsencode(path), 0) == 0)


def ensure_writable(path: Path) -> bool:
    """Let a mount that a container's runtime has made read-only be written to, in this container; whether it was so.

    Runtimes do that to /proc/sys unless the container is privileged, whatever capabilities it has.
    """
    if not os.statvfs(path).f_flag & os.ST_RDONLY:
        return False
    flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    if _libc.mount(None, os.fsencode(path), None, ctypes.c_ulong(flags), None) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise KernelError(
            f"{path} is read-only in this container, and cannot be made writable ({reason}): the container needs "
            "CAP_SYS_ADMIN and no seccomp or AppArmor profile that forbids mounts, or must be privileged"
        )
    return True
