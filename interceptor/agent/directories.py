"""The directories that one agent has for itself, and their locks: taken when it starts, or handed on by the one before."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from interceptor.agent.state import AdoptedLock, Lock, private_directory
from interceptor.errors import KernelError, StateError
from interceptor.kernel.mounts import is_bpffs, mount_bpffs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.config import Config

BPFFS = Path("/sys/fs/bpf")
MOUNTED_BY_US = "bpffs-mounted"


class Locks:
    """Those of the state, run-time and BPF directories; two agents that share only one would undo each other's work."""

    def __init__(self, locks: Sequence[Lock], bpf_dir: Path) -> None:
        """`locks` are given in the order in which they were taken."""
        self._locks = tuple(locks)
        self._bpf_dir = bpf_dir

    @classmethod
    def take(cls, config: Config) -> Self:
        """Make the directories and lock them, before anything is looked at; StateError when an agent has one of them."""
        paths = config.paths
        with ExitStack() as undo:
            taken = []
            for directory, setting in {paths.state_dir: "paths.state", paths.run_dir: "paths.run"}.items():
                private_directory(directory)
                taken.append(Lock(directory, setting))
                undo.callback(taken[-1].release)
            # What is pinned there may be another agent's, which has directories of its own.  Whose it is can be said
            # only when nobody is using it.
            require_bpffs(config)
            taken.append(_lock_pins(paths.bpf_dir))
            undo.pop_all()
        return cls(taken, paths.bpf_dir)

    @classmethod
    def adopt(cls, config: Config, fds: Sequence[int]) -> Self:
        """Go on with those of an agent that hands over; StateError when they are not, or of other directories."""
        paths = config.paths
        directories = (paths.state_dir, paths.run_dir, paths.bpf_dir)
        if len(fds) != len(directories):
            raise StateError(f"the agent before handed over {len(fds)} locks instead of {len(directories)}")
        return cls([AdoptedLock(*each) for each in zip(fds, directories, strict=True)], paths.bpf_dir)

    @property
    def fds(self) -> tuple[int, ...]:
        return tuple(lock.fd for lock in self._locks)

    def release(self) -> None:
        """Let the next one have them, or whoever was given their descriptors go on alone."""
        with suppress(OSError):
            self._bpf_dir.rmdir()  # only an empty one can go: nothing was pinned
        for lock in reversed(self._locks):
            lock.release()
        self._locks = ()


def identities(config: Config) -> list[list[int]]:
    """Device and inode of each directory, in the order of the locks: the same for all who mean the same ones."""
    paths = config.paths
    found = [path.stat() for path in (paths.state_dir, paths.run_dir, paths.bpf_dir) if path.exists()]
    return [[each.st_dev, each.st_ino] for each in found]


def require_bpffs(config: Config) -> None:
    """See to it that pins can be made where the configuration says; KernelError."""
    bpf_dir = config.paths.bpf_dir
    if is_bpffs(bpf_dir):
        return
    if not bpf_dir.is_relative_to(BPFFS):
        raise KernelError(
            f"{bpf_dir} is not in a BPF file system: mount one there, or use a path below {BPFFS}"
        )
    if mount_bpffs(BPFFS):
        (config.paths.run_dir / MOUNTED_BY_US).touch(mode=0o600)


def _lock_pins(bpf_dir: Path) -> Lock:
    try:
        bpf_dir.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise KernelError(f"cannot make the directory {bpf_dir}: {error.strerror}") from error
    return Lock(bpf_dir, "paths.bpf")
