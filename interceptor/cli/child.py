"""Run a command inside a workload's network namespace: signals and exit status pass through."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import TYPE_CHECKING, NoReturn

from interceptor.agent.reference import end_processes
from interceptor.errors import EnrolmentError
from interceptor.kernel import netns as kernel_netns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80
_NOT_FOUND, _NOT_EXECUTABLE, _SETUP_FAILED = 127, 126, 125  # as shells and env(1) have them

_PASSED_ON = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
}
_libc = ctypes.CDLL(None, use_errno=True)


def run_in_namespace(command: Sequence[str], netns_path: Path, hosts: Path) -> int:
    """Run `command` and wait for it; its exit status, or 128 plus the number of the signal that ended it."""
    waited = {*_PASSED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    with kernel_netns.open_path(str(netns_path)) as netns:
        child = os.fork()
        if child == 0:
            _become(command, netns.fd, hosts, before)
        try:
            return _wait(child, waited)
        finally:
            end_processes(netns)  # what the command left in the background has lost its network
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(child: int, waited: set[signal.Signals]) -> int:
    while True:
        received = signal.sigwaitinfo(waited)
        if received.si_signo != signal.SIGCHLD:
            # The terminal sends its own to the whole foreground group: the child has it already.
            if received.si_code != _SI_KERNEL:
                os.kill(child, received.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _become(command: Sequence[str], netns_fd: int, hosts: Path, mask: set[int | signal.Signals]) -> NoReturn:
    try:
        # Should we be killed, the command must not live on outside of the mesh's view.
        _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
        _check(_libc.setns(netns_fd, _CLONE_NEWNET), "enter the network namespace")
        _check(_libc.unshare(_CLONE_NEWNS), "make a mount namespace")
        _check(
            _libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None),
            "make mounts private",
        )
        if hosts.exists() and os.path.exists("/etc/hosts"):  # noqa: PTH110 - one word for it
            # Read-only: the file is the same for all workloads of the namespace.
            for flags in (_MS_BIND, _MS_BIND | _MS_REMOUNT | _MS_RDONLY):
                _check(
                    _libc.mount(os.fsencode(hosts), b"/etc/hosts", None, ctypes.c_ulong(flags), None),
                    "mount /etc/hosts",
                )
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python ignores them, and ignored signals are inherited
        os.execvp(command[0], list(command))  # noqa: S606 - running a command is what this is for
    except FileNotFoundError:
        _fail(f"{command[0]}: command not found", _NOT_FOUND)
    except OSError as error:
        _fail(f"{command[0]}: {error.strerror}", _NOT_EXECUTABLE)
    except EnrolmentError as error:
        _fail(str(error), _SETUP_FAILED)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise EnrolmentError(f"cannot {what} for the command: {os.strerror(ctypes.get_errno())}")


def _fail(message: str, status: int) -> NoReturn:
    os.write(2, f"interceptor: {message}\n".encode())
    os._exit(status)
