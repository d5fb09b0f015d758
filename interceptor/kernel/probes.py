"""Probes: connections of this node's kubelet to declared ports of enrolled workloads reach the application as they are.

The kubelet is recognised by its cgroup, in which only root can put a process: an address can be had by anybody on the
host.  What the programs do is said in bpf/probes.c; they are pinned, so that a dead agent does not make pods unhealthy.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel import abi, bpf_syscall
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.bpf_program import PROBE_PROGRAMS
from interceptor.kernel.pinned import PROBES, attach_pinned, remove_pinned

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from interceptor.kernel.bpf_program import Programs
    from interceptor.workload import IPAddress

_PRESENT = b"\x01"
_RESERVED = frozenset({abi.OUTBOUND_PORT, abi.INBOUND_PLAINTEXT_PORT, abi.INBOUND_TUNNEL_PORT})


class Probes:
    """Owner of the declared ports and of the link to the kubelet's cgroup; used by the agent alone, from one task."""

    def __init__(self, programs: Programs, bpf_dir: Path) -> None:
        self._programs = programs
        self._targets = programs.maps["probe_targets"]
        self._bpf_dir = bpf_dir
        self._recognised: int | None = None
        self._ports: dict[int, frozenset[tuple[IPAddress, int]]] = {}
        with kernel_netns.current() as ours:
            self._own_cookie = ours.cookie()  # the host's, in which the kubelet is

    def recognise(self, cgroup: Path | None) -> None:
        """Take the processes of a cgroup, and no others, for the kubelet; None: nobody.

        Called again, it follows a cgroup that was made anew, as a service manager does.  KernelError when the cgroup is
        not there, or is the root, in which everybody is; then nobody is taken for the kubelet.
        """
        if cgroup is None:
            self._forget_others(None)
            return
        try:
            fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self._forget_others(None)
            raise KernelError(f"cannot open the kubelet's cgroup {cgroup} ({error.strerror})") from error
        try:
            self._attach(cgroup, fd)
        except OSError as error:
            raise KernelError(
                f"cannot attach to the kubelet's cgroup {cgroup} ({error.strerror}): run 'interceptor doctor'"
            ) from error
        finally:
            os.close(fd)

    def set_ports(self, cookie: int, addresses: Iterable[IPAddress], ports: Iterable[int]) -> None:
        """Let the kubelet reach these ports of an enrolled namespace, and no others; no ports: none.

        EnrolmentError for a port of the proxy's own, or when the kernel's map is full: then what was set stays, and
        some of the new ones may be open already.
        """
        numbers = frozenset(ports)
        if reserved := sorted(numbers & _RESERVED):
            raise EnrolmentError(
                f"port {reserved[0]} is the proxy's own and cannot be probed: let the probe use another port"
            )
        wanted = frozenset((address, port) for address in addresses for port in numbers)
        before = self._ports.get(cookie, frozenset())
        self._ports[cookie] = before | wanted  # whatever fails, the next call finds them
        try:
            for address, port in wanted - before:
                bpf_syscall.map_update(self._targets, self._key(address, port), _PRESENT)
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise KernelError(f"cannot declare probe ports ({error.strerror})") from error
            raise EnrolmentError(
                f"the kernel map probe_targets takes no more entries (at most {abi.MAX_PROBE_TARGETS}): "
                "probes of this workload are refused; declare fewer ports"
            ) from error
        self._ports[cookie] = wanted
        elsewhere = {
            target for other, targets in self._ports.items() if other != cookie for target in targets
        }
        for address, port in before - wanted - elsewhere:
            bpf_syscall.map_delete(self._targets, self._key(address, port))
        if not wanted:
            del self._ports[cookie]

    def _attach(self, cgroup: Path, fd: int) -> None:
        # Only the root of the whole hierarchy lacks this file (cgroup-v2.rst, "cgroup.events").
        if not (cgroup / "cgroup.events").exists():
            self._forget_others(None)
            raise KernelError(
                f"the kubelet's cgroup {cgroup} is the root of cgroup v2, in which every process is: give the kubelet "
                "one of its own (a service manager does), and name that"
            )
        identifier = os.fstat(fd).st_ino
        if self._recognised == identifier:
            return
        self._bpf_dir.mkdir(mode=0o700, exist_ok=True)
        for name, (_, attach_type) in PROBE_PROGRAMS.items():
            attach_pinned(self._path(name, identifier), self._programs.programs[name], fd, attach_type)
        self._forget_others(identifier)

    def _forget_others(self, identifier: int | None) -> None:
        kept = {self._path(name, identifier) for name in PROBE_PROGRAMS} if identifier is not None else set()
        for path in set(self._bpf_dir.glob(f"{PROBES}*")) - kept:
            remove_pinned(path)
        self._recognised = identifier

    def _key(self, address: IPAddress, port: int) -> bytes:
        return bytes(abi.probe_target_key(self._own_cookie, address, port))

    def _path(self, program: str, cgroup_id: int) -> Path:
        return self._bpf_dir / f"{PROBES}{program}_{cgroup_id:x}"
