"""File systems that the hooks need, and the agent's directories."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.errors import KernelError
from interceptor.kernel.mounts import find_cgroup2, is_bpffs, parse_mountinfo
from interceptor.kernel.preflight.finding import failure, failure_of, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.kernel.preflight.finding import Finding
    from interceptor.kernel.preflight.subject import Subject

BPFFS = Path("/sys/fs/bpf")
_MOUNTINFO = Path("/proc/self/mountinfo")
_AGENT_UID = 0


def check_cgroup(subject: Subject) -> Iterator[Finding]:
    """A cgroup-v2 hierarchy: the capture programs are attached to its root."""
    configured = subject.config.paths.cgroup
    try:
        cgroup = configured or find_cgroup2()
    except KernelError as error:
        yield failure_of(error)
        return
    if not cgroup.is_dir() or _file_system_of(cgroup) != "cgroup2":
        yield failure(
            f"{cgroup} is not in a cgroup-v2 hierarchy",
            "mount one (mount -t cgroup2 none DIRECTORY), and set paths.cgroup to it",
        )
        return
    subject.cgroup = cgroup
    yield ok(f"mounted at {cgroup}")


def check_bpf_file_system(subject: Subject) -> Iterator[Finding]:
    """A place for pins, which keep the programs in force when the agent dies."""
    bpf_dir = subject.config.paths.bpf_dir
    try:
        is_mounted = is_bpffs(bpf_dir)
    except PermissionError as error:
        yield warning(f"{bpf_dir} cannot be looked at ({error.strerror})", "run the doctor as root")
        return
    if is_mounted:
        yield ok(f"mounted above {bpf_dir}")
    elif bpf_dir.is_relative_to(BPFFS) and BPFFS.is_dir():
        yield ok(f"not mounted: 'interceptor up' will mount it at {BPFFS}")
    elif bpf_dir.is_relative_to(BPFFS):
        yield failure(
            f"{BPFFS} does not exist", "use a kernel with CONFIG_BPF_SYSCALL, and have sysfs mounted"
        )
    else:
        yield failure(
            f"{bpf_dir} is not in a BPF file system", f"mount one there, or use a path below {BPFFS}"
        )


def check_directories(subject: Subject) -> Iterator[Finding]:
    """The state and the run-time directory: ours alone, or still to be made."""
    for path in (subject.config.paths.state_dir, subject.config.paths.run_dir):
        yield judge_directory(path)


def judge_directory(path: Path, uid: int = _AGENT_UID) -> Finding:
    """Whether an agent of this uid will accept a directory, or can make it."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return _judge_parent(path)
    except OSError as error:
        return warning(f"{path} cannot be looked at ({error.strerror})", "run the doctor as root")
    if not stat.S_ISDIR(status.st_mode):
        return failure(f"{path} is not a directory", "remove it, or choose another path in the configuration")
    if status.st_uid != uid:
        return failure(f"{path} belongs to uid {status.st_uid}", f"chown {uid} {path}")
    if status.st_mode & 0o077:
        return failure(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, others can look into it",
            f"chmod 0700 {path}",
        )
    return ok(f"{path} is there, for root only")


def _judge_parent(path: Path) -> Finding:
    parent = next(each for each in path.parents if each.exists())
    if not parent.is_dir():
        return failure(
            f"{parent} is not a directory", "remove it, or choose another path in the configuration"
        )
    if os.statvfs(parent).f_flag & os.ST_RDONLY:
        return failure(
            f"{path} cannot be made, {parent} is read-only", "choose another path in the configuration"
        )
    return ok(f"{path} will be made")


def _file_system_of(path: Path) -> str | None:
    """The type of the file system that a path is in; the last mount at the longest mount point counts."""
    resolved = path.resolve()
    mounts = [
        mount
        for mount in parse_mountinfo(_MOUNTINFO.read_text(encoding="utf-8"))
        if resolved.is_relative_to(mount.mount_point)
    ]
    longest = max((len(mount.mount_point.parts) for mount in mounts), default=0)
    nearest = [mount for mount in mounts if len(mount.mount_point.parts) == longest]
    return nearest[-1].file_system if nearest else None
