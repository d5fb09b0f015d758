"""Network namespaces: open, make and remove them, and run a few lines inside one.

Namespaces belong to threads, and the agent's one thread carries every workload. So the code between "in" and "out
again" is short and synchronous, and a way back that fails ends the process (see `_return_to`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from interceptor.errors import EnrolmentError, KernelError, quoted
from interceptor.kernel.netns_cookie import observed_cookie

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMED_NAMESPACES = Path("/run/netns")  # where `ip netns add` binds them
LOST_NAMESPACE_EXIT_STATUS = 70  # EX_SOFTWARE of sysexits.h

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
_SO_NETNS_COOKIE = 71
_MS_BIND = 4096
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_SIOCGSKNS = 0x894C  # a descriptor of the namespace that a socket is in
_OF_THIS_THREAD = "/proc/thread-self/ns/net"  # /proc/self would be the main thread's

_libc = ctypes.CDLL(None, use_errno=True)


class NetworkNamespace:
    """One network namespace, kept alive by a file descriptor of ours.

    `device` and `inode` together name it for as long as it lives; `description` is for people.
    """

    __slots__ = ("description", "device", "fd", "inode")

    def __init__(self, fd: int, description: str) -> None:
        """Take over `fd`, which must be a network namespace's (see `open_path`, `open_pid`, `current`)."""
        status = os.fstat(fd)
        self.fd = fd
        self.device = status.st_dev
        self.inode = status.st_ino
        self.description = description

    def __repr__(self) -> str:
        return f"<NetworkNamespace {self.description} inode={self.inode}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the descriptor; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def is_same_as(self, other: NetworkNamespace) -> bool:
        """Whether both are the same namespace of the kernel."""
        return (self.device, self.inode) == (other.device, other.inode)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Run the body inside this namespace; the body must not await, nor hand out a generator.

        Raises KernelError when it cannot be entered; then the body does not run.
        """
        try:
            home = os.open(_OF_THIS_THREAD, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise KernelError(f"cannot enter {self.description}: {error.strerror}") from error
        try:
            if _libc.setns(self.fd, _CLONE_NEWNET) != 0:
                reason = os.strerror(ctypes.get_errno())
                raise KernelError(f"cannot enter {self.description}: {reason}; the agent needs CAP_SYS_ADMIN")
            yield
        finally:
            _return_to(home)
            os.close(home)

    def open_socket(self, family: int, kind: int, proto: int = 0) -> socket.socket:
        """A socket that lives in this namespace: non-blocking, close-on-exec.

        Raises KernelError when the namespace cannot be entered, and OSError when socket(2) fails.
        """
        with self.entered():
            return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, proto)

    def cookie(self) -> int:
        """The number by which BPF programs know this namespace; never used twice until the next boot."""
        with self.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            return cookie_of(probe)

    def has_ipv6(self) -> bool:
        """Whether IPv6 works on its loopback: the proxy's own listeners need it there."""
        with self.entered():
            return link_has_ipv6("lo")

    def processes(self) -> tuple[int, ...]:
        """Pids of the processes inside, as it is now; one that ends meanwhile is left out."""
        wanted = (self.device, self.inode)
        found = []
        try:
            entries = list(Path("/proc").iterdir())
        except OSError as error:  # no more files may be opened: no sign that nobody is inside
            raise KernelError(f"cannot look for processes in {self.description}: {error.strerror}") from error
        for entry in entries:
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                status = (entry / "ns/net").stat()
                if (status.st_dev, status.st_ino) == wanted:
                    found.append(int(entry.name))
        return tuple(sorted(found))

    def has_processes(self) -> bool:
        """Whether any process is inside."""
        return bool(self.processes())


def cookie_of(sock: socket.socket) -> int:
    """The number of the namespace in which a socket was made."""
    try:
        answer = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:  # before Linux 5.14
        return _observed_cookie_of(sock)
    return int(struct.unpack("=Q", answer)[0])


def _observed_cookie_of(sock: socket.socket) -> int:
    try:
        fd = fcntl.ioctl(sock, _SIOCGSKNS)
    except OSError as error:
        raise KernelError(
            f"the network namespace of a socket cannot be had ({error.strerror}): the agent needs CAP_NET_ADMIN"
        ) from error
    with NetworkNamespace(fd, "a socket's network namespace") as netns:
        return observed_cookie(lambda: netns.open_socket(socket.AF_INET, socket.SOCK_DGRAM))


def link_has_ipv6(link: str) -> bool:
    """Whether IPv6 is enabled on a link of the calling thread's namespace."""
    try:
        # /proc/sys/net shows the namespace of the thread that opens it.
        return Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6").read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False


def open_path(path_or_name: str | Path) -> NetworkNamespace:
    """Open a network namespace by its path, or by the name that `ip netns add` gave it.

    Raises EnrolmentError when there is none, or it is something else.
    """
    text = os.fspath(path_or_name)
    if not text or "\0" in text or text in (".", ".."):
        raise EnrolmentError(f"{quoted(text)} is not the name or path of a network namespace")
    path = Path(text) if "/" in text else NAMED_NAMESPACES / text
    try:
        # Looked at first: to open a device or a pipe may do something.
        if not stat.S_ISREG(path.stat().st_mode):
            _refuse(path, "it is not even a plain file")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise EnrolmentError(
            f"network namespace {quoted(text)} does not exist: there is no {path}; give a name that `ip netns list` "
            "shows, a path, or a pid"
        ) from error
    except OSError as error:
        raise EnrolmentError(f"cannot open network namespace {path}: {error.strerror}") from error
    return _verified(fd, path)


def open_pid(pid: int) -> NetworkNamespace:
    """Open the network namespace that a process is in. Raises EnrolmentError when there is no such process."""
    path = Path(f"/proc/{pid}/ns/net")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise EnrolmentError(f"process {pid} does not exist, or has ended") from error
    except OSError as error:
        raise EnrolmentError(
            f"cannot open the network namespace of process {pid}: {error.strerror}"
        ) from error
    return _verified(fd, path)


def current() -> NetworkNamespace:
    """The namespace that the calling thread is in now."""
    return NetworkNamespace(
        os.open(_OF_THIS_THREAD, os.O_RDONLY | os.O_CLOEXEC), "the current network namespace"
    )


def create_named(path: Path) -> NetworkNamespace:
    """Make a network namespace, bound at `path` so that it outlives us, with its loopback up.

    Raises KernelError when it cannot be made, or `path` exists; then nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except OSError as error:
        raise KernelError(f"cannot make network namespace {path}: {error.strerror}") from error
    try:
        _run_in_thread(lambda: _become_namespace(path))
        return open_path(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what went wrong first is worth more
            _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW)
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise KernelError(f"cannot make network namespace {path}: {error.strerror}") from error
        raise


def remove_named(path: Path) -> None:
    """Undo `create_named`; none there is no error. It ends when its last process and descriptor are gone too."""
    name = os.fsencode(path)
    while _libc.umount2(name, _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
        pass
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOENT):  # no mount point; no file
        raise KernelError(f"cannot remove network namespace {path}: {os.strerror(number)}")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise KernelError(f"cannot remove network namespace {path}: {error.strerror}") from error


def _become_namespace(path: Path) -> None:
    """Take the calling thread, which must end after this, into a new namespace, and bind that at `path`."""
    _check(_libc.unshare(_CLONE_NEWNET))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("=16sh22x", b"lo", _IFF_UP))  # netdevice(7)
    _check(_libc.mount(_OF_THIS_THREAD.encode(), os.fsencode(path), None, ctypes.c_ulong(_MS_BIND), None))


def _run_in_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread that ends with it; an OSError of it is raised here."""
    failures: list[OSError] = []

    def run() -> None:
        try:
            work()
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="new network namespace")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _verified(fd: int, path: Path) -> NetworkNamespace:
    """Take over `fd` if it is a network namespace's; close it and raise EnrolmentError if not."""
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != _CLONE_NEWNET:
        os.close(fd)
        _refuse(path, "it is a namespace of another kind" if kind else "it is a plain file")
    return NetworkNamespace(fd, f"network namespace {path}")


def _refuse(path: Path, reason: str) -> NoReturn:
    raise EnrolmentError(f"{path} is not a network namespace: {reason}")


def _return_to(home: int) -> None:
    if _libc.setns(home, _CLONE_NEWNET) == 0:
        return
    # This thread is now inside a workload's namespace, and whatever it does next (dial, listen, answer on the admin
    # port) would happen there, with another workload's identity perhaps. Nobody above can repair that, and an
    # exception could be caught: so the process ends here. Captured connections are refused until it is back.
    reason = os.strerror(ctypes.get_errno())
    os.write(2, f"interceptor: cannot leave a network namespace: {reason}\n".encode())
    os._exit(LOST_NAMESPACE_EXIT_STATUS)
