"""What an agent leaves in the kernel and on the machine, so that a test can say that nothing is left."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from pyroute2 import IPRoute

from interceptor.kernel import bpf_syscall
from interceptor.kernel.bpf_program import kept_prefix

if TYPE_CHECKING:
    from tests.harness.namespace import Namespace
    from tests.harness.node import Node

_PROG_GET_FD_BY_ID, _MAP_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 13, 14, 15
_NUMBER = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_SYSCTLS = (
    "net/ipv4/tcp_fwmark_accept",
    "net/ipv4/fwmark_reflect",
    "net/ipv6/fwmark_reflect",
    "net/mptcp/enabled",
)
_libc = ctypes.CDLL(None, use_errno=True)


def bpf_objects(node: Node) -> tuple[set[int], set[int]]:
    """Ids of the programs and maps that the running agent holds, or that its pins hold."""
    programs, maps = set(), set()
    for entry in Path(f"/proc/{node.agent_pid}/fdinfo").iterdir():
        try:
            lines = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
        except FileNotFoundError:
            continue
        programs |= {int(lines["prog_id"])} if "prog_id" in lines else set()
        maps |= {int(lines["map_id"])} if "map_id" in lines else set()
    programs |= {program for _, program in pinned_links(node).values()}
    return programs, maps


def pinned_links(node: Node) -> dict[str, tuple[int, int]]:
    """The pinned links by name: link id, and the id of the program that is in force."""
    if not node.bpf_dir.exists():
        return {}
    kept = kept_prefix(node.bpf_dir).name
    return {path.name: _link_info(path) for path in node.bpf_dir.iterdir() if not path.name.startswith(kept)}


def existing(programs: set[int], maps: set[int]) -> tuple[set[int], set[int]]:
    """Those of them that the kernel still has."""
    return (
        {number for number in programs if _exists(_PROG_GET_FD_BY_ID, number)},
        {number for number in maps if _exists(_MAP_GET_FD_BY_ID, number)},
    )


def settings(namespace: Namespace) -> dict[str, object]:
    """Everything in a namespace that an enrolment changes."""
    with namespace.netns.entered():
        sysctls = {
            name: path.read_text().strip() for name in _SYSCTLS if (path := Path("/proc/sys", name)).exists()
        }
        route_socket = IPRoute()
    with route_socket as route:
        rules = sorted(
            f"{family} {rule.get_attr('FRA_PRIORITY')} {rule.get_attr('FRA_FWMARK')} {rule.get_attr('FRA_TABLE')}"
            for family in (2, 10)
            for rule in route.get_rules(family=family)
        )
        routes = sorted(
            f"{family} {found.get_attr('RTA_DST')} {found['type']}"
            for family in (2, 10)
            for found in route.get_routes(family=family, table=15008)
            if found.get_attr("RTA_TABLE") == 15008
        )
    ports = {port for port in namespace.listening_ports() if port in (15001, 15006, 15008)}
    return {"sysctls": sysctls, "rules": rules, "routes": routes, "ports": ports}


def links() -> set[str]:
    """Names of the host's links."""
    return {entry.name for entry in Path("/sys/class/net").iterdir()}


def bridge_ports(bridge: str) -> set[str]:
    """Names of the links that are on a bridge; none if there is no such bridge."""
    directory = Path(f"/sys/class/net/{bridge}/brif")
    return {entry.name for entry in directory.iterdir()} if directory.exists() else set()


def lock_holder(node: Node) -> int | None:
    """The pid of whoever holds the lock on the state directory: of an agent that does not answer yet, too."""
    try:
        inode = node.state_dir.stat().st_ino
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[-3].endswith(f":{inode}"):
            return int(fields[-4])
    return None


def _link_info(path: Path) -> tuple[int, int]:
    fd = bpf_syscall.open_pinned(path)
    try:
        info = ctypes.create_string_buffer(256)
        _bpf(_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)))
        _, link, program = struct.unpack_from("=III", info.raw)
        return link, program
    finally:
        os.close(fd)


def _exists(command: int, number: int) -> bool:
    try:
        os.close(_bpf(command, struct.pack("=III", number, 0, 0)))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(_libc.syscall(_NUMBER, command, buffer, len(attributes)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
