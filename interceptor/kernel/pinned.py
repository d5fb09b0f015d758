"""Links and maps that are pinned, so that they outlive the agent, and what becomes of them with the next one."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.kernel import bpf_syscall
from interceptor.kernel.bpf_program import LENT_MAPS, kept_prefix, lent_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from interceptor.kernel.bpf_program import Programs

GUARD, HELD, PROBES = "guard_", "held_", "probes_"
# In the order in which they go: those that send connections to the proxy before those that drop packets.
_OWN_PREFIXES = (PROBES, f"{GUARD}connect", f"{GUARD}socket", GUARD, HELD)


def attach_pinned(path: Path, program_fd: int, target_fd: int, attach_type: int) -> None:
    """Attach a program to a cgroup or a network namespace, or switch the link at `path` to it in one step."""
    if path.exists():
        link = bpf_syscall.open_pinned(path)
        try:
            bpf_syscall.update_link(link, program_fd)
        except OSError as error:
            if error.errno != errno.ENOLINK:
                raise
            path.unlink()  # what it was attached to is gone: attach anew
        else:
            return
        finally:
            os.close(link)
    link = bpf_syscall.create_link(program_fd, target_fd, attach_type)
    try:
        bpf_syscall.pin(link, path)
    finally:
        os.close(link)


def keep_maps(programs: Programs, bpf_dir: Path) -> None:
    """Pin the maps that the next agent's programs are to use again (see `load_programs`)."""
    for name in programs.kept_maps:
        path = Path(f"{kept_prefix(bpf_dir)}{name}")
        if path.exists():
            pinned = bpf_syscall.open_pinned(path)
            try:
                if _map_id(pinned) == _map_id(programs.maps[name]):
                    continue
            finally:
                os.close(pinned)
            path.unlink()
        bpf_syscall.pin(programs.maps[name], path)


def remove_pinned(path: Path) -> None:
    """Detach a link and remove its pin; none there is no error.

    To remove the pin would do, too, but only a moment later (seen on Linux 5.10).
    """
    if not path.exists():
        return
    link = bpf_syscall.open_pinned(path)
    try:
        with suppress(OSError):  # what it was attached to may be gone
            bpf_syscall.detach_link(link)
    finally:
        os.close(link)
    path.unlink()


@contextmanager
def borrowed(map_fds: Sequence[int], bpf_dir: Path) -> Iterator[None]:
    """Let programs be compiled to use maps of an agent that still runs: `map_fds` are its LENT_MAPS, in their order."""
    return_lent(bpf_dir)
    try:
        for name, map_fd in zip(LENT_MAPS, map_fds, strict=True):
            bpf_syscall.pin(map_fd, Path(f"{lent_prefix(bpf_dir)}{name}"))
        yield
    finally:
        return_lent(bpf_dir)


def return_lent(bpf_dir: Path) -> None:
    """Remove the pins that somebody made who was killed while they were needed; none there is no error."""
    for path in bpf_dir.glob(f"{lent_prefix(bpf_dir).name}*"):
        path.unlink(missing_ok=True)


def release_pins(bpf_dir: Path) -> None:
    """Remove the pins of guards, probes and held connections, and then those of the kept maps."""
    for prefix in (*_OWN_PREFIXES, kept_prefix(bpf_dir).name, lent_prefix(bpf_dir).name):
        for path in bpf_dir.glob(f"{prefix}*"):
            path.unlink()


def _map_id(map_fd: int) -> str:
    lines = Path(f"/proc/self/fdinfo/{map_fd}").read_text(encoding="ascii").splitlines()
    return next(line.split()[1] for line in lines if line.startswith("map_id:"))
