"""Attaching the programs, to a cgroup and a network namespace made for it; and who else is attached."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel import abi, bpf_syscall
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.bpf_program import ALL_PROGRAMS
from interceptor.kernel.preflight.finding import failure, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from interceptor.kernel.bpf_program import Programs
    from interceptor.kernel.preflight.finding import Finding
    from interceptor.kernel.preflight.subject import Subject

_ALLOW_MULTI = 2  # BPF_F_ALLOW_MULTI
_NAME_CHARACTERS = 15  # BPF_OBJ_NAME_LEN without the NUL
_OURS = frozenset(name[:_NAME_CHARACTERS] for name in ALL_PROGRAMS)
# Where a program of somebody else changes what ours see; attach types of include/uapi/linux/bpf.h.
_SHARED = {
    10: "connect4",
    11: "connect6",
    21: "getsockopt",
    29: "getpeername4",
    30: "getpeername6",
    31: "getsockname4",
    32: "getsockname6",
}


def check_hooks(subject: Subject) -> Iterator[Finding]:
    """Attach every program once, where no traffic is."""
    assert subject.cgroup is not None
    assert subject.programs is not None
    try:
        _attach_to_cgroup(subject.programs, subject.cgroup)
    except OSError as error:
        yield _cgroup_failure(subject.cgroup, error)
        return
    try:
        _attach_to_namespace(subject.programs, subject.scratch / "netns-hooks")
    except (OSError, KernelError, EnrolmentError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        yield failure(
            f"an sk_lookup program cannot be attached to a network namespace ({reason})",
            "use Linux 5.10 or newer; in a container, run it privileged",
        )
        return
    yield ok("attached to a cgroup and a network namespace made for it, and removed")


def _cgroup_failure(cgroup: Path, error: OSError) -> Finding:
    if error.errno == errno.EROFS:
        return warning(
            f"cannot be tried, {cgroup} is mounted read-only",
            "mount it writable for the doctor, or try 'interceptor up'",
        )
    return failure(
        f"programs cannot be attached to a cgroup below {cgroup} ({error.strerror})",
        "look for other software's programs below; in a container, run it privileged",
    )


def _attach_to_cgroup(programs: Programs, cgroup: Path) -> None:
    directory = cgroup / f"interceptor-doctor-{os.getpid()}"
    directory.mkdir()
    with ExitStack() as undo:
        undo.callback(directory.rmdir)
        target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        undo.callback(os.close, target)
        for name, program in programs.programs.items():
            undo.callback(os.close, bpf_syscall.create_link(program, target, ALL_PROGRAMS[name][1]))


def _attach_to_namespace(programs: Programs, path: Path) -> None:
    with ExitStack() as undo:
        netns = undo.enter_context(kernel_netns.create_named(path))
        undo.callback(kernel_netns.remove_named, path)
        local = bpf_syscall.create_map(
            bpf_syscall.MAP_TYPE_HASH, 16, 1, abi.MAX_LOCAL_ADDRESSES, "local_addresses"
        )
        undo.callback(os.close, local)
        sockmap = bpf_syscall.create_map(bpf_syscall.MAP_TYPE_SOCKMAP, 4, 4, abi.LISTENER_SLOTS, "listeners")
        undo.callback(os.close, sockmap)
        code = programs.instructions(
            "steer_inbound", {"inbound_listeners": sockmap, "local_addresses": local}
        )
        program = bpf_syscall.load_program(
            bpf_syscall.PROG_TYPE_SK_LOOKUP, bpf_syscall.ATTACH_SK_LOOKUP, code, "steer_inbound"
        )
        undo.callback(os.close, program)
        undo.callback(os.close, bpf_syscall.create_link(program, netns.fd, bpf_syscall.ATTACH_SK_LOOKUP))


def check_other_programs(subject: Subject) -> Iterator[Finding]:
    """Other software's programs at the same hooks of the same cgroup, such as Cilium's socket load-balancing."""
    assert subject.cgroup is not None
    target = os.open(subject.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = False
    try:
        for attach_type, hook in _SHARED.items():
            names, flags = _attached(target, attach_type)
            others = [name for name in names if name not in _OURS]
            if names and flags != _ALLOW_MULTI:
                found = True
                yield _exclusive(subject.cgroup, hook, names)
            elif others:
                found = True
                yield _shared(subject.cgroup, hook, others)
    except OSError as error:
        yield warning(
            f"the kernel does not list the programs of {subject.cgroup} ({error.strerror})", "use bpftool"
        )
        return
    finally:
        os.close(target)
    if not found:
        yield ok(f"none at our hooks of {subject.cgroup}")


def _attached(target: int, attach_type: int) -> tuple[list[str], int]:
    ids, flags = bpf_syscall.attached_programs(target, attach_type)
    names = []
    for program_id in ids:
        try:
            names.append(bpf_syscall.program_name(program_id) or f"program {program_id}")
        except FileNotFoundError:
            continue  # it was detached just now
    return names, flags


def _exclusive(cgroup: Path, hook: str, names: list[str]) -> Finding:
    return failure(
        f"{', '.join(names)} at {hook} of {cgroup} is attached without BPF_F_ALLOW_MULTI, nobody else can be",
        "stop the software that it belongs to (bpftool cgroup show), or have it attach with that flag",
    )


def _shared(cgroup: Path, hook: str, names: list[str]) -> Finding:
    return warning(
        f"{', '.join(names)} at {hook} of {cgroup} sees the same sockets, and may change their addresses first",
        "if it is Cilium's socket load-balancing, set bpf-lb-sock-hostns-only=true",
    )
