"""Cgroups for tests, and sockets that belong to them: those that a process makes while it is inside."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.kernel.mounts import find_cgroup2

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def made(*path: str) -> Iterator[Path]:
    """A new cgroup at a path below the root of version 2; its processes must be gone at the end."""
    directory = find_cgroup2().joinpath(*path)
    directory.mkdir()
    try:
        yield directory
    finally:
        directory.rmdir()


@contextlib.contextmanager
def inside(cgroup: Path) -> Iterator[None]:
    """Be in a cgroup for as long as the body runs: sockets made there are its own, whoever uses them."""
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    home = find_cgroup2() / next(line for line in lines if line.startswith("0::"))[4:]
    enter(cgroup)
    try:
        yield
    finally:
        enter(home)


def enter(cgroup: Path) -> None:
    """Move this process into a cgroup."""
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
