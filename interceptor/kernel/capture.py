"""Capture: the BPF programs in force, and which network namespaces and destinations they act on.

The programs are attached by links that are pinned, so they stay in force when
the agent dies: without its listeners every captured connection is refused.  A
new agent loads new programs with new maps, fills the maps, and then switches
each pinned link over in one step; at no time is an enrolled namespace without
capture.  `connected_to` goes over to the new programs (see `keep_maps`).  `release` removes the pins, and with them everything.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Protocol

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel import abi, bpf_syscall
from interceptor.kernel.bpf_program import CGROUP_PROGRAMS
from interceptor.kernel.older import OLDER_PROGRAMS, is_older_kernel, note_namespace
from interceptor.kernel.pinned import attach_pinned, keep_maps, release_pins, remove_pinned

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from interceptor.kernel.bpf_program import Programs
    from interceptor.workload import IPAddress, IPNetwork

_PRESENT = b"\x01"
_EXEMPT_VALUE = b"\x01"
_INBOUND = "inbound_"


class AttachTarget(Protocol):
    """A network namespace, as far as attaching to it goes."""

    @property
    def fd(self) -> int: ...


def pinned_inbound(bpf_dir: Path) -> dict[int, Path]:
    """The pinned inbound links of enrolled network namespaces, by netns cookie."""
    if not bpf_dir.is_dir():
        return {}
    return {int(path.name.removeprefix(_INBOUND), 16): path for path in bpf_dir.glob(f"{_INBOUND}*")}


def is_attached(bpf_dir: Path) -> bool:
    """Whether every cgroup program is attached (its link is pinned)."""
    names = (*OLDER_PROGRAMS, *CGROUP_PROGRAMS) if is_older_kernel() else CGROUP_PROGRAMS
    return all((bpf_dir / name).exists() for name in names)


def release(bpf_dir: Path) -> int:
    """Detach every program by removing our pins; returns how many there were.  Other files there stay."""
    inbound = pinned_inbound(bpf_dir).values()
    # Inbound last, and then what guards it: until it is gone, what arrives is still refused.
    cgroup, guard = ([bpf_dir / name for name in names] for names in (CGROUP_PROGRAMS, OLDER_PROGRAMS))
    pins = [path for path in (*cgroup, *inbound, *guard) if path.exists()]
    for path in pins:
        remove_pinned(path)
    release_pins(bpf_dir)
    if bpf_dir.is_dir() and not any(bpf_dir.iterdir()):
        bpf_dir.rmdir()
    return len(pins)


class Capture:
    """Owner of the maps and links; used by the agent alone, from one task."""

    def __init__(self, programs: Programs, bpf_dir: Path) -> None:
        self._programs = programs
        self._maps = programs.maps
        self._bpf_dir = bpf_dir
        self._prefixes: frozenset[IPNetwork] = frozenset()
        self._own_addresses: dict[int, tuple[IPAddress, ...]] = {}
        self._entries: dict[int, tuple[IPAddress, ...]] = {}  # whose addresses are in the map `workloads`
        self._capturing_everything: set[int] = set()
        self._local_maps: dict[int, int] = {}

    def activate(self, cgroup: Path) -> None:
        """Attach the cgroup programs below `cgroup`, or switch the pinned links to the new programs."""
        self._bpf_dir.mkdir(mode=0o700, exist_ok=True)
        try:
            cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise KernelError(
                f"cannot open the cgroup {cgroup} ({error.strerror}): set paths.cgroup to where cgroup v2 is mounted"
            ) from error
        try:
            keep_maps(self._programs, self._bpf_dir)
            for name, (_, attach_type) in {**OLDER_PROGRAMS, **CGROUP_PROGRAMS}.items():
                if (program := self._programs.programs.get(name)) is not None:
                    attach_pinned(self._bpf_dir / name, program, cgroup_fd, attach_type)
        except OSError as error:
            if not any((self._bpf_dir / name).exists() for name in CGROUP_PROGRAMS):
                release_pins(self._bpf_dir)  # no program uses the kept maps
            raise KernelError(
                f"cannot attach the capture programs to the cgroup {cgroup} ({error.strerror}): "
                "run 'interceptor doctor'"
            ) from error
        finally:
            os.close(cgroup_fd)

    def set_prefixes(self, networks: Iterable[IPNetwork]) -> None:
        """Replace the set of captured destinations; what stays is never missing in between."""
        wanted = frozenset(networks)
        try:
            for network in wanted - self._prefixes:
                bpf_syscall.map_update(
                    self._maps["captured_prefixes"], bytes(abi.prefix_key(network)), _PRESENT
                )
                self._prefixes |= {network}  # one by one: what is there after a failure is removed later
        except OSError as error:
            raise _full("captured_prefixes", abi.MAX_CAPTURED_PREFIXES, error) from error
        for network in self._prefixes - wanted:
            bpf_syscall.map_delete(self._maps["captured_prefixes"], bytes(abi.prefix_key(network)))
        self._prefixes = wanted

    def enrol(
        self,
        netns: AttachTarget,
        cookie: int,
        addresses: tuple[IPAddress, ...],
        listeners: Mapping[abi.ListenerSlot, socket.socket],
        *,
        everything: bool = False,
    ) -> None:
        """Steer what arrives in the namespace to `listeners`, and capture what its processes connect to.

        With `everything` also what lies outside of the prefixes (see `capture_everything`).

        After a failure `withdraw` undoes what was done, or `hold` keeps the namespace cut off.
        """
        try:
            self._forget_local_map(cookie)
            self._note_everything(cookie, everything=everything)
            self._local_maps[cookie] = bpf_syscall.create_map(
                bpf_syscall.MAP_TYPE_HASH, 16, 1, abi.MAX_LOCAL_ADDRESSES, "local_addresses"
            )
            self._set_local(cookie, addresses)
            # Before it is known to be enrolled: an unknown namespace takes nothing, this one would for a moment.
            self._steer_inbound(netns, cookie, listeners)
            self._set_sources(cookie, addresses)
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise _full("workloads or own_addresses", abi.MAX_WORKLOADS, error) from error
            raise KernelError(f"cannot capture the network namespace ({error.strerror})") from error

    def note_listeners(self, cookie: int, listeners: Iterable[socket.socket]) -> None:
        """Tell the programs which listeners wait for what the namespace connects to; before `enrol`."""
        try:
            note_namespace(self._maps, cookie, listeners)
        except OSError as error:
            raise KernelError(f"cannot capture the network namespace ({error.strerror})") from error

    def hold(self, cookie: int, *, everything: bool = False) -> None:
        """Capture a namespace that nobody serves: what it connects to is refused, until it is enrolled."""
        self._note_everything(cookie, everything=everything)
        self._write_entry(cookie, ())

    def capture_everything(self, cookie: int, *, everything: bool) -> None:
        """Capture also, or no longer, what an enrolled namespace connects to outside of the prefixes.

        Whoever calls connect(2) after this has returned is captured. Raises KernelError, and nothing has changed then.
        """
        if everything is (cookie in self._capturing_everything):
            return
        entry = abi.workload_entry(self._entries[cookie], captures_everything=everything)
        self._say(cookie, entry)
        self._note_everything(cookie, everything=everything)

    def hold_everything(self, *, everything: bool) -> None:
        """Hold also, or no longer, what namespaces that are not known yet connect to outside of the prefixes."""
        if everything:
            self._say(abi.STRANGERS, abi.workload_entry(()))
        else:
            bpf_syscall.map_delete(self._maps["workloads"], struct.pack("=Q", abi.STRANGERS))

    def _say(self, cookie: int, entry: abi.WorkloadEntry) -> None:
        try:
            bpf_syscall.map_update(self._maps["workloads"], struct.pack("=Q", cookie), bytes(entry))
        except OSError as error:
            raise KernelError(
                f"cannot capture all that a network namespace connects to ({error.strerror})"
            ) from error

    def set_addresses(self, cookie: int, addresses: tuple[IPAddress, ...]) -> None:
        """Let a namespace reach its own addresses directly, and capture what goes to any other."""
        self._set_local(cookie, addresses)
        self._set_sources(cookie, addresses)

    def _set_local(self, cookie: int, addresses: tuple[IPAddress, ...]) -> None:
        before = self._own_addresses.get(cookie, ())
        # Both, until the new ones are in force: whatever fails, `withdraw` finds them.
        self._own_addresses[cookie] = tuple({*before, *addresses})
        local_map, own_map = self._local_maps[cookie], self._maps["own_addresses"]
        try:
            for address in addresses:
                bpf_syscall.map_update(local_map, abi.address_bytes(address), _PRESENT)
                bpf_syscall.map_update(own_map, bytes(abi.own_address_key(cookie, address)), _PRESENT)
            for address in set(before) - set(addresses):
                bpf_syscall.map_delete(local_map, abi.address_bytes(address))
                bpf_syscall.map_delete(own_map, bytes(abi.own_address_key(cookie, address)))
        except OSError as error:
            raise _addresses_not_kept(error) from error
        self._own_addresses[cookie] = addresses

    def _set_sources(self, cookie: int, addresses: tuple[IPAddress, ...]) -> None:
        """From here on, the namespace is enrolled."""
        try:
            self._write_entry(cookie, addresses)
        except OSError as error:
            raise _addresses_not_kept(error) from error

    def withdraw(self, cookie: int) -> None:
        """Undo `enrol`; a namespace that is not enrolled, or gone, is no error."""
        bpf_syscall.map_delete(self._maps["workloads"], struct.pack("=Q", cookie))
        self._note_everything(cookie, everything=False)
        self._entries.pop(cookie, None)
        for address in self._own_addresses.pop(cookie, ()):
            bpf_syscall.map_delete(self._maps["own_addresses"], bytes(abi.own_address_key(cookie, address)))
        remove_pinned(self._inbound_path(cookie))
        self._forget_local_map(cookie)

    def forget_others(self, cookies: Iterable[int]) -> None:
        """Remove the inbound links of namespaces that are not among `cookies`: they are gone."""
        known = set(cookies)
        for cookie, path in pinned_inbound(self._bpf_dir).items():
            if cookie not in known:
                remove_pinned(path)

    def exempt(self, sock: socket.socket) -> None:
        """Mark a socket of the proxy itself: its connections are not captured."""
        bpf_syscall.map_update(self._maps["proxy_sockets"], struct.pack("=i", sock.fileno()), _EXEMPT_VALUE)

    def is_enrolled(self, cookie: int) -> bool:
        """Whether the kernel captures this namespace now: looked up, not remembered."""
        value_bytes = len(bytes(abi.WorkloadEntry()))
        found = bpf_syscall.map_lookup(self._maps["workloads"], struct.pack("=Q", cookie), value_bytes)
        return found is not None and self._inbound_path(cookie).exists()

    def counters(self) -> dict[abi.Counter, int]:
        """The kernel's counters, summed over the processors."""
        processors = _possible_processors()
        values = {}
        for counter in abi.Counter:
            key = struct.pack("=I", counter)
            raw = bpf_syscall.map_lookup(self._maps["counters"], key, 8 * processors) or b""
            values[counter] = sum(struct.unpack(f"={len(raw) // 8}Q", raw))
        return values

    def pending_flows(self) -> int:
        """Handshakes of captured connections under way."""
        return len(bpf_syscall.map_keys(self._maps["pending_flows"], len(bytes(abi.Flow()))))

    def close(self) -> None:
        """Let go of the file descriptors; what is pinned stays in force."""
        for local_map in self._local_maps.values():
            os.close(local_map)
        self._local_maps.clear()
        self._programs.close()

    def _steer_inbound(
        self, netns: AttachTarget, cookie: int, listeners: Mapping[abi.ListenerSlot, socket.socket]
    ) -> None:
        sockmap = bpf_syscall.create_map(bpf_syscall.MAP_TYPE_SOCKMAP, 4, 4, abi.LISTENER_SLOTS, "listeners")
        try:
            for slot, listener in listeners.items():
                bpf_syscall.map_update(sockmap, struct.pack("=I", slot), struct.pack("=I", listener.fileno()))
            maps = {"inbound_listeners": sockmap, "local_addresses": self._local_maps[cookie]}
            program = bpf_syscall.load_program(
                bpf_syscall.PROG_TYPE_SK_LOOKUP,
                bpf_syscall.ATTACH_SK_LOOKUP,
                self._programs.instructions("steer_inbound", maps),
                "steer_inbound",
            )
        finally:
            os.close(sockmap)  # the program holds it
        try:
            self._bpf_dir.mkdir(mode=0o700, exist_ok=True)
            attach_pinned(self._inbound_path(cookie), program, netns.fd, bpf_syscall.ATTACH_SK_LOOKUP)
        finally:
            os.close(program)

    def _write_entry(self, cookie: int, addresses: tuple[IPAddress, ...]) -> None:
        everything = cookie in self._capturing_everything
        entry = abi.workload_entry(addresses, captures_everything=everything)
        bpf_syscall.map_update(self._maps["workloads"], struct.pack("=Q", cookie), bytes(entry))
        self._entries[cookie] = addresses

    def _note_everything(self, cookie: int, *, everything: bool) -> None:
        if everything:
            self._capturing_everything.add(cookie)
        else:
            self._capturing_everything.discard(cookie)

    def _forget_local_map(self, cookie: int) -> None:
        if (local_map := self._local_maps.pop(cookie, None)) is not None:
            os.close(local_map)

    def _inbound_path(self, cookie: int) -> Path:
        return self._bpf_dir / f"{_INBOUND}{cookie:x}"


def _addresses_not_kept(error: OSError) -> EnrolmentError | KernelError:
    if error.errno == errno.E2BIG:
        return _full("local_addresses, own_addresses or workloads", abi.MAX_LOCAL_ADDRESSES, error)
    return KernelError(f"cannot keep the addresses of a network namespace ({error.strerror})")


def _full(what: str, limit: int, error: OSError) -> EnrolmentError:
    return EnrolmentError(
        f"the kernel map {what} takes no more entries ({error.strerror}, at most {limit}): withdraw workloads first"
    )


def _possible_processors() -> int:
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:  # noqa: PTH123 - sysfs
        return int(file.read().strip().replace(",", "-").rsplit("-", 1)[-1]) + 1
