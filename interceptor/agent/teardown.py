"""Remove everything that an agent made, when no agent is left to do it, and what an agent leaves when it stops."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from interceptor.agent.enroller import remove_run
from interceptor.agent.main import BPFFS, MOUNTED_BY_US
from interceptor.agent.state import Lock, StateFile
from interceptor.errors import InterceptorError, StateError
from interceptor.kernel import capture, netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.mounts import unmount_bpffs
from interceptor.kernel.return_path import remove_return_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from interceptor.agent.state import EnrolledState
    from interceptor.config import Config

LOCK_SECONDS = 10.0
_STATE_FILES = ("connections.jsonl", "connections.jsonl.1", "agent.log", "lock")
_AUTHORITY_DIRECTORIES = ("authority", ".authority.new")  # the second: a creation that was interrupted


def tear_down(config: Config, *, keep_state: bool, progress: Callable[[str], None]) -> None:
    """Withdraw everything and remove what is left, in an order in which nothing passes in plaintext too early.

    Run it when the agent has stopped or died.  `keep_state` leaves the state
    directory: the authority, the connection records and the log.
    """
    lock = _take_lock(config)
    try:
        for state in _enrolled(config, progress):
            progress(f"withdrawing {state.key}")
            _end_owner(state)
            netns = state.reference.reopen()
            if netns is not None:
                with netns:
                    remove_return_path(netns, state.previous_sysctls)
            remove_run(state)
        removed = capture.release(config.paths.bpf_dir)
        if removed:
            progress(f"detached {removed} BPF programs")
        _remove_leftover_namespaces(config)
        netlink.remove_bridge(config.bridge.name)
        if (config.paths.run_dir / MOUNTED_BY_US).exists():
            unmount_bpffs(BPFFS)
        _remove_tree(config.paths.run_dir)
        if not keep_state:
            _remove_state(config)
    finally:
        if lock is not None:
            lock.release()


def _take_lock(config: Config) -> Lock | None:
    if not config.paths.state_dir.is_dir():
        return None
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return Lock(config.paths.state_dir)
        except StateError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)  # the agent that was told to stop is about to


def _enrolled(config: Config, progress: Callable[[str], None]) -> list[EnrolledState]:
    try:
        return StateFile(config.paths.run_dir).load()
    except StateError as error:
        # Detaching and removing does not need it; settings inside the
        # workloads' namespaces may stay behind, and this says so.
        progress(
            f"warning: {error}; rules and sysctls inside enrolled network namespaces are left as they are"
        )
        return []


def _end_owner(state: EnrolledState) -> None:
    if state.run is None:
        return
    deadline = time.monotonic() + LOCK_SECONDS
    for number in (signal.SIGTERM, signal.SIGKILL):
        while state.run.owner.is_alive() and time.monotonic() < deadline:
            with suppress(ProcessLookupError):
                os.kill(state.run.owner.pid, number)
            time.sleep(0.05)


def _remove_leftover_namespaces(config: Config) -> None:
    directory = config.paths.run_dir / "netns"
    for path in directory.iterdir() if directory.is_dir() else ():
        kernel_netns.remove_named(path)


def _remove_tree(directory: Path) -> None:
    """Remove a directory that holds nothing but what we made; none there is no error."""
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            _remove_tree(path)
        else:
            path.unlink()
    directory.rmdir()


def _remove_state(config: Config) -> None:
    """Remove what we keep in the state directory; anything else in it stays, and so does the directory."""
    state_dir = config.paths.state_dir
    for path in (config.records.path, config.records.path.with_name(config.records.path.name + ".1")):
        path.unlink(missing_ok=True)
    for name in _AUTHORITY_DIRECTORIES:
        _remove_tree(state_dir / name)
    for name in _STATE_FILES:
        (state_dir / name).unlink(missing_ok=True)
    try:
        state_dir.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InterceptorError(
            f"{state_dir} is left: it holds files that are not ours ({error.strerror})"
        ) from error
