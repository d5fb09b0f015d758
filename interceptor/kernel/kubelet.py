"""Find the cgroup of this node's kubelet, among the processes of the host."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from interceptor.errors import KernelError
from interceptor.kernel.mounts import parse_mountinfo, where_cgroup_is_mounted

_COMMAND = "kubelet"
_UNIFIED = "0::"  # the line of cgroup v2 in /proc/PID/cgroup (cgroups(7))


def find_kubelet_cgroup(cgroup_root: Path, pods: Path, proc: Path = Path("/proc")) -> Path:
    """Where the process `kubelet` is that root runs in our own network namespace, and not below `pods`.

    Anybody can call a program so, but needs to be root on the host, outside of every pod.  KernelError when there is
    none, more than one cgroup has one, or it is in the root of the hierarchy: then it must be configured.
    """
    ours = (proc / "self/ns/net").stat().st_ino
    found = set()
    for process in proc.iterdir():
        if process.name.isdecimal():
            with suppress(OSError):  # it ended just now
                found |= _cgroup_of(process, ours)
    mounts = parse_mountinfo((proc / "self/mountinfo").read_text(encoding="utf-8"))
    seen = (where_cgroup_is_mounted(path, mounts) for path in found)
    cgroups = {
        cgroup
        for cgroup in seen
        if cgroup is not None and cgroup.is_relative_to(cgroup_root) and not cgroup.is_relative_to(pods)
    }
    if len(cgroups) != 1 or cgroups == {cgroup_root}:
        raise KernelError(
            f"cannot tell which cgroup is the kubelet's ({_say(cgroups)}): set kubernetes.kubeletCgroup; until then, "
            "probes are treated as any plaintext"
        )
    return cgroups.pop()


def _cgroup_of(process: Path, netns: int) -> set[str]:
    """The path of its cgroup, if it is a kubelet's: none or one."""
    if (process / "comm").read_text(encoding="utf-8", errors="replace").strip() != _COMMAND:
        return set()
    if process.stat().st_uid != 0 or (process / "ns/net").stat().st_ino != netns:
        return set()
    lines = (process / "cgroup").read_text(encoding="utf-8").splitlines()
    return {line.removeprefix(_UNIFIED) for line in lines if line.startswith(_UNIFIED)}


def _say(cgroups: set[Path]) -> str:
    if not cgroups:
        return "no process of root outside of the pods is named kubelet; the agent must see those of the host"
    return "found " + ", ".join(sorted(os.fspath(cgroup) for cgroup in cgroups))
