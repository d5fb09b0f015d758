"""What must survive the agent: which network namespaces are enrolled as which workloads.

One JSON file in the run-time directory, replaced atomically at each change.  It
is bound to the boot: network namespaces do not outlive it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from interceptor.agent.reference import NamespaceReference, Process
from interceptor.errors import InterceptorError, StateError
from interceptor.identity.spiffe_id import validate_name
from interceptor.kernel.return_path import PreviousSysctls
from interceptor.labels import NO_LABELS, Labels
from interceptor.workload import WorkloadKey, parse_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from interceptor.workload import IPAddress

_VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class RunDetails:
    """What `interceptor run` made for a workload, to be removed with it."""

    owner: Process
    host_link: str


@dataclass(frozen=True, slots=True)
class EnrolledState:
    """One enrolled workload as it is written down."""

    key: WorkloadKey
    service_account: str
    reference: NamespaceReference
    addresses: tuple[IPAddress, ...]  # others in its namespace it may have given itself, and are not its own
    previous_sysctls: PreviousSysctls
    run: RunDetails | None
    labels: Labels = NO_LABELS
    pod_uid: str | None = None  # of a pod of a cluster

    def to_dict(self) -> dict[str, object]:
        run = None
        if self.run is not None:
            owner = self.run.owner
            run = {"pid": owner.pid, "start": owner.start, "host_link": self.run.host_link}
        return {
            "namespace": self.key.namespace,
            "name": self.key.name,
            "service_account": self.service_account,
            "netns": self.reference.to_dict(),
            "addresses": [str(address) for address in self.addresses],
            "sysctls": self.previous_sysctls.to_dict(),
            "run": run,
            "labels": dict(self.labels),
            "pod_uid": self.pod_uid,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        run = data["run"]
        return cls(
            WorkloadKey(data["namespace"], data["name"]),
            validate_name("service account", data["service_account"]),
            NamespaceReference.from_dict(data["netns"]),
            tuple(parse_address(str(address)) for address in data["addresses"]),
            PreviousSysctls.from_dict(data["sysctls"]),
            None
            if run is None
            else RunDetails(Process(int(run["pid"]), int(run["start"])), str(run["host_link"])),
            Labels(data.get("labels", {})),  # an agent of before wrote none
            data.get("pod_uid"),
        )


class StateFile:
    """`workloads.json`: read once at start, written at every change."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "workloads.json"

    def load(self) -> list[EnrolledState]:
        """What was enrolled when the last agent wrote; empty after a reboot.  StateError when it cannot be read."""
        try:
            document = json.loads(self.path.read_bytes())
            if document["version"] != _VERSION:
                raise StateError(f"it has version {document['version']}, expected {_VERSION}")
            if document["boot_id"] != boot_id():
                return []
            return [EnrolledState.from_dict(entry) for entry in document["workloads"]]
        except FileNotFoundError:
            return []
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            InterceptorError,
        ) as error:
            reason = error if isinstance(error, InterceptorError) else f"{type(error).__name__}: {error}"
            raise StateError(
                f"the state file {self.path} cannot be used ({reason}): 'interceptor down' withdraws everything and "
                "removes it"
            ) from error

    def save(self, workloads: Iterable[EnrolledState]) -> None:
        """Replace the file in one step; StateError when it cannot be written."""
        document = {
            "version": _VERSION,
            "boot_id": boot_id(),
            "workloads": [workload.to_dict() for workload in workloads],
        }
        write_atomically(self.path, json.dumps(document, indent=1).encode())


def boot_id() -> str:
    """The kernel's random name for this boot."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content so that every reader, also after a crash, sees the old or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StateError(f"cannot write {path}: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Let a rename in it outlive a power failure."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def private_directory(path: Path) -> None:
    """Make a directory with mode 0700, or check that it is one that only we can look into."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise StateError(f"cannot use the directory {path}: {error.strerror}") from error
    if not path.is_dir() or path.is_symlink():
        raise StateError(f"{path} is not a directory: remove it, or choose another path in the configuration")
    if status.st_uid != os.geteuid():
        raise StateError(
            f"the directory {path} belongs to uid {status.st_uid}: chown it to uid {os.geteuid()}"
        )
    if status.st_mode & 0o077:
        raise StateError(
            f"the directory {path} has mode {status.st_mode & 0o7777:04o}, others can look into it: chmod 0700 it if it "
            "is interceptor's own, or choose another path in the configuration"
        )


class Lock:
    """At most one agent uses a directory; the kernel lets go of it when the agent dies."""

    def __init__(self, directory: Path, setting: str) -> None:
        """Lock a directory that exists; StateError when another agent has it, which should change `setting`."""
        try:
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StateError(f"cannot use the directory {directory}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _lock_holder(self._fd)
            os.close(self._fd)
            raise StateError(
                f"another agent{holder} uses the directory {directory}: stop it with 'interceptor down' or by its "
                f"pid, or give this one another {setting}"
            ) from error
        if os.fstat(self._fd).st_nlink == 0:
            # Whoever had it removed it meanwhile: the next one would make, and lock, another of that name.
            os.close(self._fd)
            raise StateError(f"the directory {directory} was removed just now: try again")

    @property
    def fd(self) -> int:
        return self._fd

    def release(self) -> None:
        """Let the next one have it, unless somebody else has it too (`adopt`)."""
        os.close(self._fd)


class AdoptedLock(Lock):
    """One that another process took, and handed on by its descriptor."""

    def __init__(self, fd: int, directory: Path) -> None:
        """The descriptor is ours to close; StateError when it holds no lock, or not that of the directory."""
        self._fd = fd
        try:
            is_ours = os.path.samestat(os.fstat(fd), directory.stat())
            # Of the same open file this is no change; of another, it is refused while somebody has the lock.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            raise StateError(
                f"the lock of {directory} that was handed over is none ({error.strerror})"
            ) from error
        if not is_ours:
            self.release()
            raise StateError(f"the lock that was handed over is not that of {directory}")


def _lock_holder(fd: int) -> str:
    """Who holds the lock on a file, for a message: " (pid 123)", or nothing if that cannot be seen (proc(5))."""
    inode = os.fstat(fd).st_ino
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return ""
    pids = [
        fields[-4]
        for fields in map(str.split, lines)
        if fields[-3].endswith(f":{inode}") and fields[1] == "FLOCK"
    ]
    return f" (pid {pids[0]})" if pids else ""
