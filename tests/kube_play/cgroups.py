"""A node's own directory in every hierarchy of cgroups that the machine has: version 2's alone, or version 1's beside it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from tests.harness.process import wait_until

_NOT_WHAT_IT_IS = ("rw", "ro", "xattr", "clone_children", "nsdelegate", "memory_recursiveprot", "favordynmods")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where it is mounted; of version 1 with its controllers or its name, as mount(8) takes them."""

    mount: Path
    options: str

    @property
    def is_v2(self) -> bool:
        return not self.options

    @property
    def to_mount(self) -> str:
        """For the node's first process: what, and where."""
        return f"{self.options or 'cgroup2'}:{self.mount}"


def hierarchies() -> list[Hierarchy]:
    """Those of this machine (proc_pid_mountinfo(5))."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        sort, _, options = after.split(" ", 2)
        if sort in ("cgroup", "cgroup2"):
            kept = [each for each in options.split(",") if each not in _NOT_WHAT_IT_IS and "agent=" not in each]
            mount = Path(before.split()[4])
            found.setdefault(",".join(kept) if sort == "cgroup" else "", Hierarchy(mount, ",".join(kept) if sort == "cgroup" else ""))
    return list(found.values())


def make(hierarchy: Hierarchy, name: str) -> Path:
    """A directory that processes can be put into."""
    made = hierarchy.mount / name
    made.mkdir(exist_ok=True)
    for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1 has a new one empty
        if not hierarchy.is_v2 and (made / setting).exists():
            (made / setting).write_text((hierarchy.mount / setting).read_text())
    return made


def leaf(hierarchy: Hierarchy, name: str) -> Path:
    """Where the node's own processes are, once it is up."""
    return hierarchy.mount / name / "init" if hierarchy.is_v2 else hierarchy.mount / name


def remove(hierarchy: Hierarchy, name: str) -> None:
    """Remove what is there with everything below; its processes have been killed."""

    def is_gone() -> bool:
        top = hierarchy.mount / name
        for path in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # busy until its last process has ended
                path.rmdir()
        with contextlib.suppress(OSError):
            top.rmdir()
        return not top.exists()

    wait_until(is_gone, f"{hierarchy.mount / name} can be removed")
