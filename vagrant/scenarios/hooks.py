"""Runs in a box, with the product's own interpreter: try each hook and each feature by itself, print what came of it.

One line of JSON, name -> "ok", "not available" (this kernel does not have it), "not built" (interceptor does not use
it), or "failed: " and the error.  A program of two instructions shows a hook; so one that is missing hides no other.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import socket
import struct
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.errors import InterceptorError
from interceptor.kernel import bpf_syscall
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.bpf_program import CGROUP_PROGRAMS, load_programs
from interceptor.kernel.headers import find_headers
from interceptor.kernel.keyring import Keyring
from interceptor.kernel.mounts import find_cgroup2

if TYPE_CHECKING:
    from collections.abc import Callable

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
SK_LOOKUP = (bpf_syscall.PROG_TYPE_SK_LOOKUP, bpf_syscall.ATTACH_SK_LOOKUP)
# Opcodes and helpers of include/uapi/linux/bpf.h.
_LOAD_WORD, _CALL, _MOVE_IMMEDIATE, _EXIT = 0x61, 0x85, 0xB7, 0x95
_GET_NETNS_COOKIE = 122
_INGRESS_IFINDEX = 64  # offset in struct bpf_sk_lookup
_SO_NETNS_COOKIE = 71
_IPPROTO_MPTCP = 262
# What a kernel says of something that it has never heard of.
_UNKNOWN = (
    errno.EINVAL,
    errno.EACCES,
    errno.ENOPROTOOPT,
    errno.EPROTONOSUPPORT,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
)


def instruction(opcode: int, registers: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", opcode, registers, offset, immediate)


PASS = instruction(_MOVE_IMMEDIATE, immediate=1) + instruction(_EXIT)
READS_THE_LINK = instruction(_LOAD_WORD, 0x10, _INGRESS_IFINDEX) + PASS  # r0 = *(u32 *)(r1 + 64)
ASKS_FOR_THE_COOKIE = instruction(_CALL, immediate=_GET_NETNS_COOKIE) + PASS


def tried(attempt: Callable[[], object]) -> str:
    """What came of it."""
    try:
        attempt()
    except OSError as error:
        return "not available" if error.errno in _UNKNOWN else f"failed: {error.strerror}"
    except InterceptorError as error:
        return f"failed: {error}"
    return "ok"


def load(kind: tuple[int, int], code: bytes = PASS) -> int:
    return bpf_syscall.load_program(*kind, code, "probe")


def attach(kind: tuple[int, int], target: int) -> None:
    """Load, attach, replace as the next agent does, detach."""
    with ExitStack() as undo:
        programs = [load(kind), load(kind)]
        for program in programs:
            undo.callback(os.close, program)
        link = bpf_syscall.create_link(programs[0], target, kind[1])
        undo.callback(os.close, link)
        bpf_syscall.update_link(link, programs[1])


def hooks(undo: ExitStack) -> dict[str, str]:
    """Every hook, by its name in the kernel's documentation."""
    directory = find_cgroup2() / f"hooks-{os.getpid()}"
    directory.mkdir()
    undo.callback(directory.rmdir)
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    undo.callback(os.close, cgroup)
    results = {}
    for name, kind in CGROUP_PROGRAMS.items():
        results[HOOKS[name]] = tried(lambda kind=kind: attach(kind, cgroup))  # type: ignore[misc]
    path = Path(undo.enter_context(tempfile.TemporaryDirectory())) / "netns"
    netns = undo.enter_context(kernel_netns.create_named(path))
    undo.callback(kernel_netns.remove_named, path)
    results["sk_lookup"] = tried(lambda: attach(SK_LOOKUP, netns.fd))
    return results


def features(undo: ExitStack) -> dict[str, str]:
    """What the programs and the agent need beside a hook that can be attached."""
    scratch = Path(undo.enter_context(tempfile.TemporaryDirectory()))
    sock_ops = CGROUP_PROGRAMS["track_flows"]
    results = {
        "link told to sk_lookup": tried(lambda: os.close(load(SK_LOOKUP, READS_THE_LINK))),
        "netns cookie told to sock_ops": tried(lambda: os.close(load(sock_ops, ASKS_FOR_THE_COOKIE))),
        "SO_NETNS_COOKIE": tried(netns_cookie),
        "Multipath TCP, to be refused": tried(lambda: stream_socket(_IPPROTO_MPTCP).close()),
        "keys in the kernel": tried(lambda: keep_a_key(f"interceptor-probe-{os.getpid()}")),
    }
    return {**results, "all programs": tried(lambda: load_all(scratch)), "kernel TLS": "not built"}


def stream_socket(protocol: int = 0) -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)


def netns_cookie() -> None:
    with stream_socket() as probe:
        probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)


def keep_a_key(name: str) -> None:
    keyring = Keyring(name)
    keyring.store(b"probe")
    try:
        assert keyring.load() == b"probe"
    finally:
        keyring.remove()


def load_all(scratch: Path) -> None:
    with closing(load_programs(find_headers(None, platform.release(), scratch).path)):
        pass


def main() -> None:
    with ExitStack() as undo:
        results = {"kernel": platform.release(), **hooks(undo), **features(undo)}
    print("HOOKS " + json.dumps(results))


if __name__ == "__main__":
    main()
