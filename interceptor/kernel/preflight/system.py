"""Privileges, kernel, limits, clock."""

from __future__ import annotations

import os
import platform
import re
import resource
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.kernel import bpf_syscall
from interceptor.kernel.preflight.finding import failure, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.kernel.preflight.finding import Finding
    from interceptor.kernel.preflight.subject import Subject

_OLDEST = (5, 10)  # the programs were seen to do on it what they do on newer ones
# What programs or the agent would like to be told, since when they are, and what is done before that (bpf/older.c).
_MADE_UP_FOR = (
    ((5, 14), "SO_NETNS_COOKIE, which a program at sock_create tells the agent"),
    ((5, 15), "bpf_get_netns_cookie in sock_ops programs, which is noted with sockets"),
    ((5, 17), "ingress_ifindex in sk_lookup programs, which one more program looks at, at every packet"),
)
WANTED_DESCRIPTORS = 65_536
DESCRIPTORS_PER_CONNECTION = 4  # when both of its workloads are on this machine
_PLAUSIBLE_YEARS = range(2025, 2100)
_STATUS = Path("/proc/self/status")

# Numbers of include/uapi/linux/capability.h. CAP_BPF and CAP_PERFMON are parts of CAP_SYS_ADMIN, which entering
# network namespaces needs anyhow; CAP_SYS_RESOURCE is not needed.
_REQUIRED = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN"}
_WANTED = {
    5: ("CAP_KILL", "'interceptor down' cannot end the commands of other users"),
    19: ("CAP_SYS_PTRACE", "network namespaces of other users' processes cannot be enrolled by --pid"),
}


def check_privileges(_subject: Subject) -> Iterator[Finding]:
    """Root, with the capabilities that containers tend to lack."""
    if (uid := os.geteuid()) != 0:
        yield failure(f"not root, but uid {uid}", "use sudo: much cannot even be checked without root")
        return
    effective = effective_capabilities(_STATUS.read_text(encoding="ascii"))
    missing = [name for number, name in _REQUIRED.items() if not effective >> number & 1]
    if missing:
        yield failure(
            f"root, but without {' and '.join(missing)}", "grant it to the container (or run it privileged)"
        )
        return
    for number, (name, consequence) in _WANTED.items():
        if not effective >> number & 1:
            yield warning(f"no {name}: {consequence}", "grant it to the container, if that is wanted")
    yield ok("root, with CAP_NET_ADMIN and CAP_SYS_ADMIN")


def effective_capabilities(status: str) -> int:
    """The effective set of a /proc/PID/status (proc(5)), as a bit mask."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return int(found.group(1), 16) if found else 0


def check_kernel(_subject: Subject) -> Iterator[Finding]:
    """Version and architecture."""
    yield judge_kernel(platform.release(), platform.machine())


def judge_kernel(release: str, machine: str) -> Finding:
    """Whether a kernel (`uname -r`, `uname -m`) has all hooks, and what else it lacks."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if numbers < _OLDEST:
        return failure(
            f"Linux {release} is too old, its programs cannot steer connections to the proxy",
            "use Linux 5.17 or newer (Debian 12, Ubuntu 24.04); 5.10 will do",
        )
    if not bpf_syscall.is_known_here():
        return failure(f"the number of bpf(2) on {machine} is not known", "use x86_64 or aarch64")
    missing = [f"{what} (since {since[0]}.{since[1]})" for since, what in _MADE_UP_FOR if numbers < since]
    made_up_for = f", does not have, and it is made up for: {'; '.join(missing)}" if missing else ""
    return ok(f"Linux {release} on {machine}{made_up_for}")


def check_descriptors(_subject: Subject) -> Iterator[Finding]:
    """How many connections fit into the limit of open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield judge_descriptors(hard)


def judge_descriptors(hard: int) -> Finding:
    """Whether the hard limit of open files, to which the agent raises its own, is enough."""
    if hard == resource.RLIM_INFINITY:
        return ok("no limit of open files")
    connections = f"about {hard // DESCRIPTORS_PER_CONNECTION} connections at once"
    if hard < WANTED_DESCRIPTORS:
        return warning(
            f"at most {hard} open files: {connections}",
            f"ulimit -Hn {WANTED_DESCRIPTORS} before 'interceptor up', or LimitNOFILE= in the systemd unit",
        )
    return ok(f"at most {hard} open files: {connections}")


def check_clock(_subject: Subject) -> Iterator[Finding]:
    """Certificates are valid for a time: a clock that is years off makes all of them invalid."""
    yield judge_clock(datetime.now(UTC))  # noqa: TID251 - the clock itself is what is checked


def judge_clock(now: datetime) -> Finding:
    """Whether this may be the time."""
    shown = f"{now:%Y-%m-%d %H:%M} UTC"
    if now.year not in _PLAUSIBLE_YEARS:
        return failure(
            f"the clock says {shown}, certificates would not be valid", "set it: timedatectl set-ntp true"
        )
    return ok(shown)
