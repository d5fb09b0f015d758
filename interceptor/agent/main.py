"""Start an agent: everything that must be right before the event loop runs, in order, each failure one line."""

from __future__ import annotations

import logging
import os
import platform
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from interceptor.agent.cluster_side import ClusterSide
from interceptor.agent.directories import Locks
from interceptor.agent.joined_authority import JoinedAuthority
from interceptor.agent.node import Node
from interceptor.agent.own_authority import OwnAuthority
from interceptor.agent.pod_authority import PodAuthority
from interceptor.agent.predecessor import take_or_meet
from interceptor.agent.process import forbid_core_dumps, log_to_stderr, raise_descriptor_limit, single_cause
from interceptor.agent.reference import remove_leftover_namespaces
from interceptor.agent.state import StateFile
from interceptor.errors import KernelError, StateError, UsageError
from interceptor.kernel.bpf_program import load_programs
from interceptor.kernel.capture import pinned_inbound
from interceptor.kernel.headers import find_headers
from interceptor.kernel.mounts import PROC_SYS, ensure_writable, find_cgroup2
from interceptor.kernel.pinned import borrowed, return_lent

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.agent.authority_access import AuthorityAccess
    from interceptor.agent.predecessor import Predecessor
    from interceptor.config import Config
    from interceptor.kernel.bpf_program import Programs

log = logging.getLogger(__name__)


def run_agent(
    config: Config, progress: Callable[[str], None], *, token: str | None = None, take_over: bool = False
) -> bool:
    """Run an agent in the foreground until it is told to stop; whether it is not to come back, and must be torn down.

    `progress` gets a line for each step of the start; with `token` it joins an authority elsewhere, with `take_over` it
    is handed the node by the agent that serves it, if there is one.
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
        before = take_or_meet(config, progress) if take_over else Locks.take(config)
        started.callback(before.release)
        cluster = None if config.kubernetes is None else ClusterSide(config, config.kubernetes)
        access = _authority(config, progress, token)
        started.callback(access.close)
        if isinstance(before, Locks):
            _clean_up(config)
        cgroup = paths.cgroup or find_cgroup2()
        progress("compiling and loading the BPF programs")
        programs = _load(config, before)
        progress(_what_begins(config, before))
        node = Node(config, access, programs, cgroup, before, cluster)
        started.callback(node.capture.close)
        started.callback(node.release_locks)
        try:
            trio.run(node.run)
        except BaseExceptionGroup as group:
            raise single_cause(group) from None
    return node.is_leaving


def _clean_up(config: Config) -> None:
    """Remove what an agent that died left by halves; StateError when what it had enrolled cannot be known."""
    restored = StateFile(config.paths.run_dir).load()
    _require_state(config, len(restored))
    known = {Path(each.reference.path) for each in restored if each.reference.path}
    remove_leftover_namespaces(config.paths.run_dir, known)
    return_lent(config.paths.bpf_dir)


def _load(config: Config, before: Locks | Predecessor) -> Programs:
    paths = config.paths
    headers = find_headers(_configured_headers(config), platform.release(), paths.run_dir)
    if isinstance(before, Locks):
        return load_programs(headers.path, paths.bpf_dir)
    with borrowed(before.lent, paths.bpf_dir):
        return load_programs(headers.path, paths.bpf_dir, are_maps_lent=True)


def _what_begins(config: Config, before: Locks | Predecessor) -> str:
    if not isinstance(before, Locks):
        return f"taking over from agent {before.pid}"
    restored = len(StateFile(config.paths.run_dir).load())
    return f"starting, with {restored} workloads of the last agent" if restored else "starting"


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


def _configured_headers(config: Config) -> Path | None:
    if config.paths.kernel_headers is not None:
        return config.paths.kernel_headers
    from_environment = os.environ.get("BCC_KERNEL_SOURCE")
    return Path(from_environment) if from_environment else None
