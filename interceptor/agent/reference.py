"""What a workload's network namespace is known by, so that a new agent finds it again."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from interceptor.errors import EnrolmentError, StateError
from interceptor.kernel import netns as kernel_netns

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from interceptor.kernel.netns import NetworkNamespace


def process_start(pid: int) -> int | None:
    """When a process started (clock ticks since boot): with the pid, it names a process for good. None: it ended."""
    try:
        # After the command, which may contain anything, come fields 3 and on (proc(5)).
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except (FileNotFoundError, ProcessLookupError):
        return None  # any other error, of too many open files for one, is no sign that it ended
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told from a later one with its number by when it started."""

    pid: int
    start: int

    @classmethod
    def find(cls, pid: int) -> Self:
        """The process that has this number now."""
        start = process_start(pid)
        if start is None:
            raise EnrolmentError(f"process {pid} does not exist, or has ended")
        return cls(pid, start)

    def is_alive(self) -> bool:
        return process_start(self.pid) == self.start


def end_processes(netns: NetworkNamespace) -> None:
    """Kill what is left in a namespace that was made for one command, when that command has ended."""
    for pid in netns.processes():
        if pid != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class NamespaceReference:
    """A network namespace by path or by process, and which namespace of the kernel that was.

    Device and inode are quick to compare, but the kernel gives an inode to the next namespace as soon as one is gone;
    the cookie it gives only once.
    """

    path: str | None
    process: Process | None
    device: int
    inode: int
    cookie: int

    @classmethod
    def of(cls, netns: NetworkNamespace, *, path: str | None = None, process: Process | None = None) -> Self:
        """The reference to a namespace that is open; either path or process leads to it."""
        return cls(path, process, netns.device, netns.inode, netns.cookie())

    @classmethod
    def by_path(cls, name_or_path: str) -> tuple[Self, NetworkNamespace]:
        """Open a name or path; the caller closes the namespace."""
        netns = kernel_netns.open_path(name_or_path)
        path = name_or_path if "/" in name_or_path else str(kernel_netns.NAMED_NAMESPACES / name_or_path)
        with ExitStack() as undo:
            undo.callback(netns.close)
            reference = cls.of(netns, path=str(Path(path).absolute()))
            undo.pop_all()
        return reference, netns

    @classmethod
    def by_pid(cls, pid: int) -> tuple[Self, NetworkNamespace]:
        """Open the namespace of a process; the caller closes it."""
        process = Process.find(pid)
        netns = kernel_netns.open_pid(pid)
        with ExitStack() as undo:
            undo.callback(netns.close)
            reference = cls.of(netns, process=process)
            if not process.is_alive():
                raise EnrolmentError(f"process {pid} ended while its network namespace was opened")
            undo.pop_all()
        return reference, netns

    def is_alive(self) -> bool:
        """Whether path or process still lead to this very namespace, which somebody holds open."""
        if self.process is not None:
            path = f"/proc/{self.process.pid}/ns/net"
            if not self.process.is_alive():
                return False
        else:
            assert self.path is not None
            path = self.path
        return self._is_at(Path(path))

    def reopen(self) -> NetworkNamespace | None:
        """Open the same namespace again, through whoever is still in it; None when it is gone."""
        if self.is_alive():
            path = self.path or f"/proc/{self.process.pid}/ns/net"  # type: ignore[union-attr] # one of the two
            return self._verified(kernel_netns.open_path(path))
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and self._is_at(entry / "ns/net"):
                try:
                    return self._verified(kernel_netns.open_pid(int(entry.name)))
                except EnrolmentError:
                    continue  # it ended just now
        return None

    def _verified(self, netns: NetworkNamespace) -> NetworkNamespace | None:
        if netns.cookie() == self.cookie:
            return netns
        netns.close()  # another one, with the inode of ours
        return None

    def _is_at(self, path: Path) -> bool:
        try:
            found = path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self.device, self.inode)

    def to_dict(self) -> dict[str, object]:
        """For the state file."""
        return {
            "path": self.path,
            "pid": self.process.pid if self.process else None,
            "start": self.process.start if self.process else None,
            "device": self.device,
            "inode": self.inode,
            "cookie": self.cookie,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From the state file; StateError on anything that `to_dict` did not write."""
        path, pid = data["path"], data["pid"]
        if (path is None) == (pid is None):
            raise StateError("a network namespace needs either a path or a pid")
        process = None if pid is None else Process(int(pid), int(data["start"]))
        path = None if path is None else str(path)
        return cls(path, process, int(data["device"]), int(data["inode"]), int(data["cookie"]))


def remove_leftover_namespaces(run_dir: Path, known: Collection[Path] = ()) -> None:
    """Those that `interceptor run` made and nobody knows of any more: its agent was killed before it wrote them down."""
    directory = run_dir / "netns"
    for path in directory.iterdir() if directory.is_dir() else ():
        if path in known:
            continue
        with suppress(EnrolmentError), kernel_netns.open_path(path) as netns:
            end_processes(netns)
        kernel_netns.remove_named(path)
