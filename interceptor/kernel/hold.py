"""Hold: what network namespaces below the pods' cgroup do until the agent has said what they are.

A namespace is enrolled (`Capture.enrol`), outside (`admit_outside`), or unknown.  In an unknown one, connections to
captured destinations wait, and so do those that arrive over a link (bpf/guard.c says how).  The guard is pinned: with
the agent dead, new namespaces go on waiting, and TCP gives up after about two minutes.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel import abi, bpf_syscall
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.bpf_program import GUARD_PROGRAMS
from interceptor.kernel.older import note_namespace
from interceptor.kernel.pinned import GUARD, HELD, attach_pinned, keep_maps, remove_pinned

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from interceptor.kernel.bpf_program import Programs
    from interceptor.kernel.capture import AttachTarget

_PRESENT = b"\x01"
_COOKIE = struct.Struct("=Q")
_NEWCOMER = struct.Struct("=QI4x")
_ENTRY_BYTES = len(bytes(abi.WorkloadEntry()))


class UnknownPolicy(StrEnum):
    """What becomes of the connections of an unknown network namespace; both tell the agent of it."""

    HOLD = "hold"
    PASS = "pass"  # noqa: S105 - not a password


@dataclass(frozen=True, slots=True)
class Waiting:
    """An unknown network namespace, and the process that first made a socket in it.

    `cgroup_id` is the inode number of its cgroup's directory, `pid` its number in the initial pid namespace; both are 0
    when a packet was seen first.
    """

    cookie: int
    cgroup_id: int
    pid: int


class Hold:
    """Owner of the guard's links and maps; used by the agent alone, from one task, beside `Capture`."""

    def __init__(self, programs: Programs, bpf_dir: Path) -> None:
        self._programs = programs
        self._maps = programs.maps
        self._bpf_dir = bpf_dir
        self._guarded: tuple[frozenset[int], UnknownPolicy] | None = None
        with kernel_netns.current() as ours:
            self._own_cookie = ours.cookie()
        self.events_fd = self._maps["wake_ups"]

    def guard(self, cgroups: Iterable[Path], policy: UnknownPolicy = UnknownPolicy.HOLD) -> None:
        """Let namespaces below `cgroups` wait while they are unknown, and none below others.

        Called again, it follows cgroups that were made anew.  Our own namespace, the host's, is outside.  KernelError
        when a cgroup cannot be opened; then what was guarded stays so.
        """
        with ExitStack() as opened:
            fds = {os.fstat(fd).st_ino: fd for fd in (_open(path, opened) for path in _disjoint(cgroups))}
            if self._guarded == (frozenset(fds), policy):
                return
            self.admit_outside(self._own_cookie)
            try:
                self._attach(fds, policy)
            except OSError as error:
                raise KernelError(
                    f"cannot attach the guard to the pods' cgroup ({error.strerror}): run 'interceptor doctor'"
                ) from error
        self._guarded = frozenset(fds), policy

    def _attach(self, fds: Mapping[int, int], policy: UnknownPolicy) -> None:
        keep_maps(self._programs, self._bpf_dir)
        wanted = {
            self._guard_path(name, cgroup_id): (name, attach_type, fd)
            for name, (_, attach_type) in GUARD_PROGRAMS.items()
            for cgroup_id, fd in fds.items()
            if policy is UnknownPolicy.HOLD or name == "guard_socket"
        }
        for path, (name, attach_type, fd) in wanted.items():
            attach_pinned(path, self._programs.programs[name], fd, attach_type)
        # Those that send to the proxy go before those that drop.
        for path in sorted(self._guard_pins() - wanted.keys(), key=lambda pin: "connect" not in pin.name):
            remove_pinned(path)

    def is_guarding(self) -> bool:
        """Whether something may be held: a guard is pinned, ours or that of the last agent."""
        return bool(self._guard_pins())

    def admit_outside(self, cookie: int) -> None:
        """A namespace is known, and not enrolled: nothing of it waits any more.

        Connections that are held already need somebody to carry them on (`steer_held`, before).
        """
        try:
            bpf_syscall.map_update(self._maps["outside"], _COOKIE.pack(cookie), _PRESENT)
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise KernelError(
                    f"cannot admit a network namespace as outside ({error.strerror})"
                ) from error
            raise EnrolmentError(
                f"the kernel map outside takes no more entries (at most {abi.MAX_OUTSIDE}): the namespace goes on "
                "waiting; fewer pods can be on this node"
            ) from error

    def forget(self, cookie: int) -> None:
        """A namespace is no longer outside: it is enrolled, or is gone, waiting or not; none known is no error."""
        bpf_syscall.map_delete(self._maps["outside"], _COOKIE.pack(cookie))
        bpf_syscall.map_delete(self._maps["waiting"], _COOKIE.pack(cookie))

    def retain(self, cookies: Iterable[int]) -> None:
        """Forget every namespace that is outside and not among `cookies`, and stop steering in it."""
        kept = {self._own_cookie, *cookies}
        for path in self._bpf_dir.glob(f"{HELD}*"):
            if int(path.name.removeprefix(HELD), 16) not in kept:
                remove_pinned(path)  # the last agent did not come to it
        for key in bpf_syscall.map_keys(self._maps["outside"], _COOKIE.size):
            if _COOKIE.unpack(key)[0] not in kept:
                bpf_syscall.map_delete(self._maps["outside"], key)

    def waiting(self) -> tuple[Waiting, ...]:
        """The unknown namespaces that were seen, whether or not an event told of them; those known by now are left out."""
        found = []
        for key in bpf_syscall.map_keys(self._maps["waiting"], _COOKIE.size):
            if self._is_known(key):
                bpf_syscall.map_delete(self._maps["waiting"], key)
            elif (value := bpf_syscall.map_lookup(self._maps["waiting"], key, _NEWCOMER.size)) is not None:
                found.append(Waiting(_COOKIE.unpack(key)[0], *_NEWCOMER.unpack(value)))
        return tuple(found)

    def drain_events(self) -> None:
        """Make `events_fd` unreadable until the next new namespace; look at `waiting` after this, not before.

        Layout of `Documentation/bpf/ringbuf.rst`: a page with the consumer's position, one with the producer's. What
        the events say is not read: that stands in `waiting`, where nothing of it gets lost.
        """
        page = mmap.PAGESIZE
        with (
            mmap.mmap(self.events_fd, page, mmap.MAP_SHARED) as consumer,
            mmap.mmap(self.events_fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page) as producer,
        ):
            consumer[:8] = producer[:8]

    def steer_held(
        self, netns: AttachTarget, cookie: int, listeners: Mapping[abi.ListenerSlot, socket.socket]
    ) -> None:
        """Hand the connections that are held in a namespace to `listeners`, once it is admitted."""
        fds = []
        try:
            sockmap = bpf_syscall.create_map(
                bpf_syscall.MAP_TYPE_SOCKMAP, 4, 4, abi.LISTENER_SLOTS, "listeners"
            )
            fds.append(sockmap)
            for slot, listener in listeners.items():
                bpf_syscall.map_update(sockmap, struct.pack("=I", slot), struct.pack("=I", listener.fileno()))
            note_namespace(self._maps, cookie, listeners.values())
            itself = bpf_syscall.create_map(bpf_syscall.MAP_TYPE_ARRAY, 4, _COOKIE.size, 1, "this_namespace")
            fds.append(itself)
            bpf_syscall.map_update(itself, struct.pack("=I", 0), _COOKIE.pack(cookie))
            program = bpf_syscall.load_program(
                bpf_syscall.PROG_TYPE_SK_LOOKUP,
                bpf_syscall.ATTACH_SK_LOOKUP,
                self._programs.instructions(
                    "steer_held", {"inbound_listeners": sockmap, "this_namespace": itself}
                ),
                "steer_held",
            )
            fds.append(program)
            attach_pinned(self._held_path(cookie), program, netns.fd, bpf_syscall.ATTACH_SK_LOOKUP)
        except OSError as error:
            raise KernelError(
                f"cannot serve what is held in a network namespace ({error.strerror})"
            ) from error
        finally:
            for fd in fds:
                os.close(fd)

    def stop_steering(self, cookie: int) -> None:
        """Undo `steer_held`; what is held then is refused, none there is no error."""
        remove_pinned(self._held_path(cookie))

    def _is_known(self, key: bytes) -> bool:
        return (
            bpf_syscall.map_lookup(self._maps["outside"], key, 1) is not None
            or bpf_syscall.map_lookup(self._maps["workloads"], key, _ENTRY_BYTES) is not None
        )

    def _guard_pins(self) -> set[Path]:
        return set(self._bpf_dir.glob(f"{GUARD}*"))

    def _guard_path(self, program: str, cgroup_id: int) -> Path:
        return self._bpf_dir / f"{program}_{cgroup_id:x}"

    def _held_path(self, cookie: int) -> Path:
        return self._bpf_dir / f"{HELD}{cookie:x}"


def _open(cgroup: Path, opened: ExitStack) -> int:
    try:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(
            f"cannot open the pods' cgroup {cgroup} ({error.strerror}): it must be a directory of cgroup v2"
        ) from error
    opened.callback(os.close, fd)
    return fd


def _disjoint(cgroups: Iterable[Path]) -> tuple[Path, ...]:
    """The cgroups, none of them below another: its connections would be sent to the proxy twice."""
    paths = tuple(dict.fromkeys(cgroups))
    for path in paths:
        above = [other for other in paths if other != path and path.is_relative_to(other)]
        if above:
            raise KernelError(f"the pods' cgroup {path} is below {above[0]}: give only the upper one")
    return paths
