"""Start an agent: everything that must be right before the event loop runs, in order, each failure one line."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import resource
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from interceptor.agent.clock import wall_clock
from interceptor.agent.node import AUTHORITY_DIRECTORY, Node
from interceptor.agent.state import Lock, StateFile, private_directory
from interceptor.authority_store import load_or_create
from interceptor.errors import InterceptorError, KernelError, StateError
from interceptor.kernel.bpf_program import load_programs
from interceptor.kernel.capture import pinned_inbound
from interceptor.kernel.headers import find_headers
from interceptor.kernel.mounts import find_cgroup2, is_bpffs, mount_bpffs

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.config import Config

log = logging.getLogger(__name__)

BPFFS = Path("/sys/fs/bpf")
MOUNTED_BY_US = "bpffs-mounted"
_PR_SET_DUMPABLE = 4
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run_agent(config: Config, progress: Callable[[str], None]) -> None:
    """Run an agent in the foreground until it is told to stop.

    `progress` gets a line for each step of the start.  InterceptorError says
    why it could not start; what was begun is undone then.
    """
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT, stream=sys.stderr)
    if os.geteuid() != 0:
        raise KernelError("the agent needs root, to load BPF programs and enter network namespaces: use sudo")
    _raise_descriptor_limit()
    _forbid_core_dumps()
    with ExitStack() as started:
        paths = config.paths
        private_directory(paths.state_dir)
        private_directory(paths.run_dir)
        # Each of them: two agents that share only one would undo each other's work.
        for directory, setting in {paths.state_dir: "paths.state", paths.run_dir: "paths.run"}.items():
            started.callback(Lock(directory, setting).release)
        # Before anything is made or looked at: what is pinned there may be another agent's, which has directories of
        # its own.  Whose it is can be said only when nobody is using it.
        _require_bpffs(config)
        started.callback(_release_pins, paths.bpf_dir, _lock_pins(paths.bpf_dir))
        progress("opening the certificate authority")
        authority = load_or_create(paths.state_dir / AUTHORITY_DIRECTORY, config.trust_domain, wall_clock())
        restored = StateFile(paths.run_dir).load()
        _require_state(config, len(restored))
        cgroup = paths.cgroup or find_cgroup2()
        progress("compiling and loading the BPF programs")
        headers = find_headers(_configured_headers(config), platform.release(), paths.run_dir)
        programs = load_programs(headers.path)
        progress(f"starting, with {len(restored)} workloads of the last agent" if restored else "starting")
        node = Node(config, authority, programs, cgroup, restored)
        started.callback(node.capture.close)
        try:
            trio.run(node.run)
        except BaseExceptionGroup as group:
            raise _single_cause(group) from None


def _require_state(config: Config, restored: int) -> None:
    pinned = pinned_inbound(config.paths.bpf_dir)
    if pinned and not restored:
        raise StateError(
            f"{len(pinned)} network namespaces are captured ({config.paths.bpf_dir}), but the state file that says whose "
            f"they are is not in {config.paths.run_dir}: choose another paths.bpf if they are another agent's; "
            "otherwise 'interceptor down' withdraws everything"
        )


def _require_bpffs(config: Config) -> None:
    bpf_dir = config.paths.bpf_dir
    if is_bpffs(bpf_dir):
        return
    if not bpf_dir.is_relative_to(BPFFS):
        raise KernelError(
            f"{bpf_dir} is not in a BPF file system: mount one there, or use a path below {BPFFS}"
        )
    if mount_bpffs(BPFFS):
        (config.paths.run_dir / MOUNTED_BY_US).touch(mode=0o600)


def _lock_pins(bpf_dir: Path) -> Lock:
    try:
        bpf_dir.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise KernelError(f"cannot make the directory {bpf_dir}: {error.strerror}") from error
    return Lock(bpf_dir, "paths.bpf")


def _release_pins(bpf_dir: Path, lock: Lock) -> None:
    with suppress(OSError):
        bpf_dir.rmdir()  # only an empty one can go: nothing was pinned
    lock.release()


def _configured_headers(config: Config) -> Path | None:
    if config.paths.kernel_headers is not None:
        return config.paths.kernel_headers
    from_environment = os.environ.get("BCC_KERNEL_SOURCE")
    return Path(from_environment) if from_environment else None


def _raise_descriptor_limit() -> None:
    # Each connection takes two on each side.  Only up to the hard limit: more
    # would need CAP_SYS_RESOURCE, which containers often lack.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _forbid_core_dumps() -> None:
    # A core file would put the workloads' private keys on the disk.  This holds for one that is piped to a program,
    # too, where RLIMIT_CORE does not.
    if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise KernelError("cannot switch core dumps off (prctl PR_SET_DUMPABLE)")


def _single_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The expected error inside a nursery's group, if that is what it is about."""
    expected = group.subgroup(InterceptorError)
    while expected is not None and isinstance(expected, BaseExceptionGroup):
        first = expected.exceptions[0]
        if not isinstance(first, BaseExceptionGroup):
            return first
        expected = first
    return group
