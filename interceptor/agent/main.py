"""Start an agent: everything that must be right before the event loop runs, in order, each failure one line."""

from __future__ import annotations

import logging
import os
import platform
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from interceptor.agent.cluster_side import ClusterSide
from interceptor.agent.joined_authority import JoinedAuthority
from interceptor.agent.node import Node
from interceptor.agent.own_authority import OwnAuthority
from interceptor.agent.pod_authority import PodAuthority
from interceptor.agent.process import forbid_core_dumps, log_to_stderr, raise_descriptor_limit, single_cause
from interceptor.agent.reference import remove_leftover_namespaces
from interceptor.agent.state import Lock, StateFile, private_directory
from interceptor.errors import KernelError, StateError, UsageError
from interceptor.kernel.bpf_program import load_programs
from interceptor.kernel.capture import pinned_inbound
from interceptor.kernel.headers import find_headers
from interceptor.kernel.mounts import PROC_SYS, ensure_writable, find_cgroup2, is_bpffs, mount_bpffs

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.agent.authority_access import AuthorityAccess
    from interceptor.config import Config

log = logging.getLogger(__name__)

BPFFS = Path("/sys/fs/bpf")
MOUNTED_BY_US = "bpffs-mounted"


def run_agent(config: Config, progress: Callable[[str], None], *, token: str | None = None) -> bool:
    """Run an agent in the foreground until it is told to stop; whether it is not to come back, and must be torn down.

    `progress` gets a line for each step of the start; with `token` it joins an authority elsewhere.
    InterceptorError says why it could not start; what was begun is undone then.
    """
    log_to_stderr()
    if os.geteuid() != 0:
        raise KernelError("the agent needs root, to load BPF programs and enter network namespaces: use sudo")
    raise_descriptor_limit()
    forbid_core_dumps()
    if config.kubernetes is not None and ensure_writable(PROC_SYS):
        log.info("%s was read-only in this container: made writable, for the pods' sysctls", PROC_SYS)
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
        cluster = None if config.kubernetes is None else ClusterSide(config, config.kubernetes)
        access = _authority(config, progress, token)
        started.callback(access.close)
        restored = StateFile(paths.run_dir).load()
        _require_state(config, len(restored))
        remove_leftover_namespaces(
            paths.run_dir, {Path(each.reference.path) for each in restored if each.reference.path}
        )
        cgroup = paths.cgroup or find_cgroup2()
        progress("compiling and loading the BPF programs")
        headers = find_headers(_configured_headers(config), platform.release(), paths.run_dir)
        programs = load_programs(headers.path, paths.bpf_dir)
        progress(f"starting, with {len(restored)} workloads of the last agent" if restored else "starting")
        node = Node(config, access, programs, cgroup, restored, cluster)
        started.callback(node.capture.close)
        try:
            trio.run(node.run)
        except BaseExceptionGroup as group:
            raise single_cause(group) from None
    return node.is_leaving


def _authority(config: Config, progress: Callable[[str], None], token: str | None) -> AuthorityAccess:
    if config.kubernetes is not None and config.authority_address is not None and token is None:
        return PodAuthority(config, config.authority_address, config.kubernetes)
    if config.authority_address is not None:
        return JoinedAuthority(config, config.authority_address, token)
    if token is not None:
        raise UsageError(
            "a token is for an authority elsewhere, and the configuration names none: set authority.address"
        )
    progress("opening the certificate authority")
    return OwnAuthority(config)


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
