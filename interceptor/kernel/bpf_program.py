"""The one door to bcc: compile the programs in `bpf/`, load them, hand out file descriptors."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import signal
import socket
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from interceptor.errors import KernelError
from interceptor.kernel.older import OLDER_MAPS, OLDER_PROGRAMS, is_older_kernel, lift_memory_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

MINIMUM_BCC = (0, 25)
_PR_SET_PDEATHSIG = 1
_MESSAGE_BYTES = 65536  # steer_inbound in hexadecimal is 1.3 KB

# One translation unit, in this order: bcc rewrites the map calls of the main file only.
SOURCES = ("maps.c", "older.c", "outbound.c", "flows.c", "guard.c", "probes.c", "inbound.c")
_MAPS = (
    "workloads",
    "captured_prefixes",
    "own_addresses",
    "pending_flows",
    "connected_to",
    "accepted_for",
    "proxy_sockets",
    "counters",
    "inbound_listeners",
    "local_addresses",
    "made_in",
    "outside",
    "waiting",
    "wake_ups",
    "this_namespace",
    "probe_targets",
    "probe_flows",
)
# They outlive the programs: pinned, and used again by the next agent's.
_KEPT_MAPS = ("connected_to", "made_in", "outside")
# What both agents of a hand-over use: never pinned, but while the second one's programs are compiled.
LENT_MAPS = ("pending_flows", "accepted_for", "proxy_sockets", "probe_flows")
# function -> (program type, attach type), numbers of the kernel's uapi/linux/bpf.h
CGROUP_PROGRAMS: Mapping[str, tuple[int, int]] = {
    "connect_ipv4": (18, 10),
    "connect_ipv6": (18, 11),
    "peer_name_ipv4": (18, 29),
    "peer_name_ipv6": (18, 30),
    "own_name_ipv4": (18, 31),
    "own_name_ipv6": (18, 32),
    "track_flows": (13, 3),
    "answer_original_destination": (25, 21),
    "refuse_multipath": (9, 2),
}
# For the cgroup below which pods are made; the first two drop packets, so they are attached before the others hold.
GUARD_PROGRAMS: Mapping[str, tuple[int, int]] = {
    "guard_egress": (8, 1),
    "guard_ingress": (8, 0),
    "guard_socket": (9, 2),
    "guard_connect_ipv4": (18, 10),
    "guard_connect_ipv6": (18, 11),
}
# For the kubelet's cgroup.
PROBE_PROGRAMS: Mapping[str, tuple[int, int]] = {"track_probes": (13, 3)}
LOADED_PROGRAMS: Mapping[str, tuple[int, int]] = {**CGROUP_PROGRAMS, **GUARD_PROGRAMS, **PROBE_PROGRAMS}
ALL_PROGRAMS: Mapping[str, tuple[int, int]] = {**OLDER_PROGRAMS, **LOADED_PROGRAMS}
# Loaded anew for each network namespace, with maps of its own.
_NAMESPACE_PROGRAMS: Mapping[str, tuple[int, int]] = {"steer_inbound": (30, 36), "steer_held": (30, 36)}
_LOAD_MAP_BY_FD = (0x18, 1)  # BPF_LD | BPF_IMM | BPF_DW with BPF_PSEUDO_MAP_FD as source register


@dataclass(frozen=True, slots=True)
class Relocation:
    """Where an instruction names a map: byte offset, and which map."""

    offset: int
    map_name: str


@dataclass(frozen=True, slots=True)
class Template:
    """A program that is loaded for each network namespace: its instructions, and where they name maps."""

    code: bytes
    relocations: tuple[Relocation, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """What the programs are compiled to: `is_older` with what kernels before Linux 5.17 need."""

    is_older: bool

    @property
    def maps(self) -> tuple[str, ...]:
        """Names, in the order of the file descriptors."""
        return (*_MAPS, *OLDER_MAPS) if self.is_older else _MAPS

    @property
    def kept_maps(self) -> tuple[str, ...]:
        """Those of them that outlive the programs."""
        return (*_KEPT_MAPS, *OLDER_MAPS) if self.is_older else _KEPT_MAPS

    @property
    def programs(self) -> Mapping[str, tuple[int, int]]:
        """Function -> (program type, attach type)."""
        return ALL_PROGRAMS if self.is_older else LOADED_PROGRAMS

    def flags(self, bpf_dir: Path | None) -> list[str]:
        """For the compiler; the kept maps of an earlier agent are used again if they are all in `bpf_dir`."""
        older = ["-DOLDER_KERNEL"] if self.is_older else []
        if bpf_dir is None:
            return older
        prefix = kept_prefix(bpf_dir)
        is_there = all(Path(f"{prefix}{name}").exists() for name in self.kept_maps)
        return [*older, f'-DKEPT_AS="{prefix}"'] if is_there else older


@dataclass(frozen=True, slots=True)
class Programs:
    """What was loaded: map and program file descriptors, and what is to be loaded per namespace."""

    maps: Mapping[str, int]
    programs: Mapping[str, int]
    templates: Mapping[str, Template]
    kept_maps: tuple[str, ...]

    def instructions(self, name: str, maps: Mapping[str, int]) -> bytes:
        """A namespace's program with other maps: `maps` overrides file descriptors by map name."""
        template = self.templates[name]
        code = bytearray(template.code)
        for relocation in template.relocations:
            fd = maps.get(relocation.map_name, self.maps[relocation.map_name])
            struct.pack_into("<i", code, relocation.offset + 4, fd)
        return bytes(code)

    def close(self) -> None:
        """Give the file descriptors back; what is pinned or attached stays."""
        for fd in (*self.maps.values(), *self.programs.values()):
            os.close(fd)


def source_directory() -> Path:
    """`bpf/`: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent / "bpf"


def source_text(directory: Path) -> bytes:
    """All of `SOURCES` below one another, so that the compiler still names the file and line that it means."""
    parts = (f'#line 1 "{directory / name}"\n{(directory / name).read_text()}' for name in SOURCES)
    return "".join(parts).encode()


def import_bcc() -> Any:  # noqa: ANN401 - bcc ships no types
    """The bcc module, new enough; KernelError names the package to install otherwise."""
    try:
        bcc = importlib.import_module("bcc")
    except Exception as error:  # whatever a foreign module does: OSError without libbcc.so, SyntaxError, ...
        raise KernelError(
            f"the Python module bcc cannot be imported ({error}): apt-get install python3-bpfcc, "
            "and use the distribution's own python3 (a venv needs --system-site-packages)"
        ) from error
    found = str(getattr(bcc, "__version__", ""))
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if not hasattr(bcc, "BPF"):
        raise KernelError(
            "the Python module bcc is not the BPF compiler (an unrelated package of that name is on PyPI): "
            "pip uninstall bcc, then apt-get install python3-bpfcc"
        )
    # A locally built bcc may carry no number at all ("EAD-NOTFOUND..."): let it try.
    if numbers and numbers < MINIMUM_BCC:
        raise KernelError(
            f"bcc {found} is too old, it cannot load connect4 and sk_lookup programs: "
            "install bcc 0.25 or newer (Debian 12, Ubuntu 24.04 have it)"
        )
    return bcc


def kept_prefix(bpf_dir: Path) -> Path:
    """Where the maps that outlive an agent are pinned, up to their names."""
    return bpf_dir / "kept_"


def lent_prefix(bpf_dir: Path) -> Path:
    """Where a successor finds the maps that it was lent, up to their names."""
    return bpf_dir / "lent_"


def load_programs(
    headers: Path | None,
    bpf_dir: Path | None = None,
    *,
    are_maps_lent: bool = False,
    is_older: bool | None = None,
) -> Programs:
    """Compile and load everything; nothing is attached yet.

    `headers` is a kernel header tree, None when bcc finds its own.  The kept
    maps of an earlier agent are taken from `bpf_dir` when they are there, and
    those that one which still runs has lent (`pinned.borrowed`).  `is_older`
    says what this kernel is, unless it is to be asked.
    KernelError says in one line what the compiler or the verifier did not accept.

    A child process does it and sends the file descriptors back: the compiler
    inside bcc takes 150 MB that would never be returned, and a crash of it is
    then one error message.  Call it before there are threads.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    variant = Variant(is_older_kernel() if is_older is None else is_older)
    flags = variant.flags(bpf_dir)
    if bpf_dir is not None and are_maps_lent:
        flags.append(f'-DLENT_AS="{lent_prefix(bpf_dir)}"')
    lift_memory_limit()
    with ours, tempfile.TemporaryFile() as diagnostics:
        child = os.fork()
        if child == 0:
            _compile_and_exit(theirs, diagnostics.fileno(), headers, variant, flags)
        theirs.close()
        try:
            message, fds, _, _ = socket.recv_fds(
                ours, _MESSAGE_BYTES, len(variant.maps) + len(variant.programs)
            )
        finally:
            _, status = os.waitpid(child, 0)
        diagnostics.seek(0)
        answer: dict[str, Any] = (
            json.loads(message) if message else {"error": f"the compiler ended with status {status}"}
        )
        if "refusal" in answer:
            raise KernelError(answer["refusal"])
        if "error" in answer:
            raise KernelError(_explain(answer["error"], diagnostics.read().decode(errors="replace")))
    return Programs(
        maps=dict(zip(variant.maps, fds, strict=False)),
        programs=dict(zip(variant.programs, fds[len(variant.maps) :], strict=True)),
        templates={
            name: Template(bytes.fromhex(code), tuple(Relocation(*relocation) for relocation in relocations))
            for name, (code, relocations) in answer.items()
        },
        kept_maps=variant.kept_maps,
    )


def _compile_and_exit(
    channel: socket.socket, diagnostics_fd: int, headers: Path | None, variant: Variant, flags: list[str]
) -> NoReturn:
    # clang and the verifier write to file descriptors 1 and 2 themselves: dozens
    # of lines that are for us, not for the person at the terminal.
    os.dup2(diagnostics_fd, 1)
    os.dup2(diagnostics_fd, 2)
    # Whoever is to be answered may be killed meanwhile, and we hold its locks, too.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        if headers is not None:
            os.environ["BCC_KERNEL_SOURCE"] = str(headers)
        fds, codes = _compile(import_bcc(), source_directory(), variant, flags)
        names = dict(zip(fds, variant.maps, strict=False))
        answer = {
            name: (code.hex(), [(each.offset, each.map_name) for each in _relocations(code, names)])
            for name, code in codes.items()
        }
        socket.send_fds(channel, [json.dumps(answer).encode()], fds)
    except KernelError as error:
        channel.send(json.dumps({"refusal": str(error)}).encode())
    except BaseException as error:
        channel.send(json.dumps({"error": str(error)[:1000]}).encode())
    finally:
        os._exit(0)


def _compile(
    bcc: Any,  # noqa: ANN401 - bcc ships no types
    source: Path,
    variant: Variant,
    flags: list[str],
) -> tuple[list[int], dict[str, bytes]]:
    module = bcc.BPF(text=source_text(source), cflags=[f"-I{source}", *flags])
    programs = [
        module.load_func(name.encode(), program_type, attach_type=attach_type).fd
        for name, (program_type, attach_type) in variant.programs.items()
    ]
    codes = {}
    for name, (program_type, attach_type) in _NAMESPACE_PROGRAMS.items():
        module.load_func(name.encode(), program_type, attach_type=attach_type)
        codes[name] = module.dump_func(name.encode())
    maps = [bcc.lib.bpf_table_fd(module.module, name.encode()) for name in variant.maps]
    return maps + programs, codes


def _relocations(code: bytes, names: Mapping[int, str]) -> tuple[Relocation, ...]:
    found = []
    for offset in range(0, len(code), 8):
        operation, registers, _, immediate = struct.unpack_from("<BBhi", code, offset)
        if (operation, registers >> 4) == _LOAD_MAP_BY_FD:
            found.append(Relocation(offset, names[immediate]))
    return tuple(found)


def _explain(error: str, diagnostics: str) -> str:
    lines = [line.strip() for line in diagnostics.splitlines()]
    first = next((line for line in lines if "error:" in line), None)
    verdict = next((line for line in reversed(lines) if line and not line.startswith("processed")), None)
    cause = first or verdict or error
    if "file not found" in cause:
        return f"the kernel header tree is not complete ({cause}): run 'interceptor doctor'"
    return f"the BPF programs cannot be loaded ({cause}): run 'interceptor doctor'"
