"""Remove everything that an agent made, when no agent is left to do it, and what an agent leaves when it stops.

Only what bears a name of ours is removed: a path in the configuration may be a wrong one.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.agent import audit
from interceptor.agent.directories import BPFFS, MOUNTED_BY_US
from interceptor.agent.handover_wire import SOCKET_NAME
from interceptor.agent.joined_authority import TRUST_COPY, TRUST_FILE
from interceptor.agent.kept_identity import SECRET_FILE, KeptIdentity
from interceptor.agent.members import remove_run
from interceptor.agent.policy_keeper import MARKER
from interceptor.agent.records import PLAINTEXT_FILE, RECENT_FILE
from interceptor.agent.reference import process_start, remove_leftover_namespaces
from interceptor.agent.return_tokens import RETURN_FILE, ReturnTokens
from interceptor.agent.state import Lock, StateFile, private_directory
from interceptor.errors import EnrolmentError, InterceptorError, StateError
from interceptor.kernel import capture, netlink
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel.mounts import parse_mountinfo, unmount_bpffs
from interceptor.kernel.return_path import remove_return_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interceptor.agent.state import EnrolledState
    from interceptor.config import Config
    from interceptor.kernel.netns import NetworkNamespace

LOCK_SECONDS = 10.0
OWNER_SECONDS = 5.0  # for each signal
_RUN_FILES = ("admin.sock", SOCKET_NAME, "workloads.json", ".workloads.json.new", MOUNTED_BY_US)
_RUN_DIRECTORIES = ("hosts", "netns", "kernel-headers")
_STATE_FILES = (
    "connections.jsonl",
    "connections.jsonl.1",
    "agent.log",
    TRUST_FILE,
    f".{RETURN_FILE}.new",
    MARKER,
    f".{MARKER}.new",
    RECENT_FILE,
    f".{RECENT_FILE}.new",
    PLAINTEXT_FILE,
    f".{PLAINTEXT_FILE}.new",
    # What was being written when the agent died.
    TRUST_COPY,
    f".{TRUST_COPY}.new",
    f".{TRUST_FILE}.new",
    f".{SECRET_FILE}.new",
)
_AUTHORITY_DIRECTORIES = ("authority", ".authority.new")  # the second: a creation that was interrupted


def tear_down(
    config: Config, *, keep_state: bool, remove_audit: bool, progress: Callable[[str], None]
) -> None:
    """Withdraw everything and remove what is left, in an order in which nothing passes in plaintext too early.

    Run it when the agent has stopped or died.  `keep_state` leaves the state
    directory: the authority, the node's identity, the connection records and the
    log.  The audit trail is left in any case unless `remove_audit` is given: who
    changed a policy must not be able to end the trail of it in passing.  Where anything in the configuration is another agent's, InterceptorError
    says what, and everything stays as it is.
    """
    paths = config.paths
    with ExitStack() as stack:
        pins = stack.enter_context(ExitStack())
        _lock_everything(config, stack, pins)
        netlink.require_own_bridge(config.bridge.name, paths.run_dir)
        for state in _enrolled(config, progress):
            progress(f"withdrawing {state.key}")
            _end_owner(state)
            netns = state.reference.reopen()
            if netns is not None:
                with netns:
                    remove_return_path(netns, state.previous_sysctls)
            remove_run(state)
        remove_leftover_namespaces(paths.run_dir)
        removed = capture.release(paths.bpf_dir)
        if removed:
            progress(f"detached {removed} BPF programs")
        pins.close()  # a file system in which something is open could not be unmounted
        netlink.remove_bridge(config.bridge.name)
        if (paths.run_dir / MOUNTED_BY_US).exists():
            unmount_bpffs(BPFFS)
        _remove_run_directory(paths.run_dir)
        if not keep_state:
            _remove_state(config, _audit_trail(config), remove_audit=remove_audit, progress=progress)


def wait_for_end(pid: int) -> None:
    """Wait for an agent that was told to stop; not for ever, its lock says whether it still runs."""
    deadline = time.monotonic() + LOCK_SECONDS
    while process_start(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.02)


def _lock_everything(config: Config, own: ExitStack, pins: ExitStack) -> None:
    """Lock each directory that is there, as an agent does: they need not all belong to the same one."""
    paths = config.paths
    for directory, setting in {paths.state_dir: "paths.state", paths.run_dir: "paths.run"}.items():
        if directory.exists():
            private_directory(directory)  # one that is not is not ours
            _take_lock(directory, setting, own)
    if paths.bpf_dir.is_dir():
        _take_lock(paths.bpf_dir, "paths.bpf", pins)


def _take_lock(directory: Path, setting: str, stack: ExitStack) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            stack.callback(Lock(directory, setting).release)
        except StateError:
            if not directory.exists():
                return  # another `down` had it
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)  # the agent that was told to stop is about to
        else:
            return


def _enrolled(config: Config, progress: Callable[[str], None]) -> list[EnrolledState]:
    try:
        states = StateFile(config.paths.run_dir).load()
    except StateError as error:
        progress(f"warning: {error}; sysctls inside enrolled network namespaces stay as they are")
        states = []
    unknown = capture.pinned_inbound(config.paths.bpf_dir).keys() - {s.reference.cookie for s in states}
    for netns in _namespaces() if unknown else ():
        with netns:
            if netns.cookie() in unknown:
                remove_return_path(netns, None)
    return states


def _namespaces() -> Iterator[NetworkNamespace]:
    """Every network namespace that is bound to a path or has a process, each once."""
    seen = set()
    mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    bound = (mount.mount_point for mount in mounts if mount.file_system == "nsfs")
    for path in (*bound, *(entry / "ns/net" for entry in Path("/proc").iterdir() if entry.name.isdecimal())):
        with suppress(OSError, EnrolmentError):  # it ended just now, or is something else
            status = path.stat()
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                yield kernel_netns.open_path(path)


def _end_owner(state: EnrolledState) -> None:
    """Ask `interceptor run` to end, and make it after a while."""
    if state.run is None:
        return
    owner = state.run.owner
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            if owner.is_alive():
                os.kill(owner.pid, number)
        deadline = time.monotonic() + OWNER_SECONDS
        while owner.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)


def _remove_run_directory(run_dir: Path) -> None:
    for name in _RUN_DIRECTORIES:
        _remove_tree(run_dir / name)
    for name in _RUN_FILES:
        (run_dir / name).unlink(missing_ok=True)
    _remove_if_empty(run_dir)


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


def _audit_trail(config: Config) -> list[Path]:
    """The files of the audit trail that are there."""
    return [path for path in _rotated(config.paths.audit, audit.KEEP) if path.exists()]


def _rotated(path: Path, keep: int) -> list[Path]:
    return [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, keep + 1))]


def _remove_state(
    config: Config, trail: list[Path], *, remove_audit: bool, progress: Callable[[str], None]
) -> None:
    """Remove what we keep in the state directory; anything else in it stays, and so does the directory."""
    state_dir = config.paths.state_dir
    for old in (*_rotated(config.records.path, 1), *(trail if remove_audit else ())):
        old.unlink(missing_ok=True)
    for name in _AUTHORITY_DIRECTORIES:
        _remove_tree(state_dir / name)
    for name in _STATE_FILES:
        (state_dir / name).unlink(missing_ok=True)
    KeptIdentity(state_dir).remove()
    ReturnTokens(state_dir).remove()
    if trail and not remove_audit:
        progress(f"the audit trail stays: {trail[0]}; 'interceptor down --remove-audit' removes it too")
    if remove_audit or not any(path.parent == state_dir for path in trail):
        _remove_if_empty(state_dir)


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.EBUSY:
            return  # a mount point: somebody else made it
        raise InterceptorError(
            f"{directory} is left: it holds files that are not ours ({error.strerror})"
        ) from error
