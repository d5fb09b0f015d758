"""Runs in a box, with the product's own interpreter: attach each program once, and print what came of it as JSON.

Values: "ok", "not needed" (a program for older kernels), "not available", or the error.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from interceptor.errors import InterceptorError
from interceptor.kernel import bpf_syscall
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.bpf_program import CGROUP_PROGRAMS, Programs, load_programs
from interceptor.kernel.headers import find_headers
from interceptor.kernel.mounts import find_cgroup2

HOOKS = {
    "connect_ipv4": "connect4",
    "connect_ipv6": "connect6",
    "peer_name_ipv4": "getpeername4",
    "peer_name_ipv6": "getpeername6",
    "own_name_ipv4": "getsockname4",
    "own_name_ipv6": "getsockname6",
    "track_flows": "sock_ops",
    "answer_original_destination": "getsockopt",
    "refuse_multipath": "sock_create",
}


def attached(programs: Programs, undo: ExitStack) -> dict[str, str]:
    """Every hook, by its name in the kernel's documentation."""
    directory = find_cgroup2() / f"hooks-{os.getpid()}"
    directory.mkdir()
    undo.callback(directory.rmdir)
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    undo.callback(os.close, cgroup)
    results = {}
    for name, (_, attach_type) in CGROUP_PROGRAMS.items():
        results[HOOKS[name]] = tried(
            lambda n=name, a=attach_type: bpf_syscall.create_link(programs.programs[n], cgroup, a)
        )
    path = Path(tempfile.mkdtemp()) / "netns"
    with kernel_netns.create_named(path) as netns:
        undo.callback(kernel_netns.remove_named, path)
        program = bpf_syscall.load_program(
            bpf_syscall.PROG_TYPE_SK_LOOKUP,
            bpf_syscall.ATTACH_SK_LOOKUP,
            programs.steer_instructions({}),
            "steer",
        )
        results["sk_lookup"] = tried(
            lambda: bpf_syscall.create_link(program, netns.fd, bpf_syscall.ATTACH_SK_LOOKUP)
        )
    results["fmod_ret"] = "not needed" if programs.guard is None else "ok"
    return results


def tried(attach: object) -> str:
    """What came of one attachment, which ends at once."""
    try:
        os.close(attach())  # type: ignore[operator]
    except OSError as error:
        return f"failed: {error.strerror}"
    return "ok"


def main() -> None:
    results = {"kernel": platform.release()}
    with ExitStack() as undo, tempfile.TemporaryDirectory() as scratch:
        try:
            programs = load_programs(find_headers(None, platform.release(), Path(scratch)).path)
        except InterceptorError as error:
            results |= {"programs": f"failed: {error}"}
        else:
            results |= {"programs": "ok", **attached(programs, undo)}
    has_tls = subprocess.run(["modprobe", "--quiet", "tls"], check=False).returncode == 0
    results["kernel TLS"] = "ok" if has_tls else "not available"
    print("HOOKS " + json.dumps(results))


if __name__ == "__main__":
    main()
