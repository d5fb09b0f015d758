"""Network namespaces, opened, made, entered and removed for real."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import EnrolmentError, KernelError
from interceptor.kernel import netns

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.kernel.netns import NetworkNamespace


def thread_inode() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def fail_inside(namespace: NetworkNamespace) -> None:
    assert thread_inode() == namespace.inode
    raise ZeroDivisionError


def loopback_flags() -> int:
    return int(Path("/sys/class/net/lo/flags").read_text(encoding="ascii"), 16)


def test_open_path_unknown_name_says_where_it_looked() -> None:
    with pytest.raises(
        EnrolmentError, match=r"'nowhere' does not exist: there is no /run/netns/nowhere; give"
    ):
        netns.open_path("nowhere")


@pytest.mark.parametrize("text", ["", ".", "..", "a\0b"])
def test_open_path_impossible_name_is_refused(text: str) -> None:
    with pytest.raises(EnrolmentError, match="is not the name or path"):
        netns.open_path(text)


def test_open_path_of_something_else_is_refused_without_touching_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")  # to open it would block
    for path, reason in (
        (tmp_path / "file", "it is a plain file"),
        (tmp_path / "pipe", "it is not even a plain file"),
        (tmp_path, "it is not even a plain file"),
        (Path("/proc/self/ns/mnt"), "a namespace of another kind"),
    ):
        with pytest.raises(EnrolmentError, match=f"{path} is not a network namespace: .*{reason}"):
            netns.open_path(path)
    with pytest.raises(EnrolmentError, match="does not exist"):
        netns.open_path(tmp_path / "file" / "below")


def test_open_pid_of_this_process_is_the_current_namespace() -> None:
    with netns.open_pid(os.getpid()) as opened, netns.current() as current:
        assert opened.is_same_as(current)
        assert not os.get_inheritable(opened.fd)
        assert os.getpid() in opened.processes()


@pytest.mark.parametrize("pid", [-1, 0, 2**31 - 1])
def test_open_pid_without_process_is_refused(pid: int) -> None:
    with pytest.raises(EnrolmentError, match=f"process {pid} does not exist"):
        netns.open_pid(pid)


def test_close_may_be_repeated() -> None:
    opened = netns.current()
    opened.close()
    opened.close()
    assert opened.fd == -1


def test_entered_closed_namespace_raises_and_stays() -> None:
    opened = netns.current()
    opened.close()
    before = thread_inode()
    with (
        pytest.raises(KernelError, match="cannot enter the current network namespace: Bad file"),
        opened.entered(),
    ):
        pytest.fail("the body must not run")
    assert thread_inode() == before


@pytest.mark.netns
def test_create_named_makes_a_new_namespace_and_stays_outside(
    make_namespace: Callable[[str], NetworkNamespace],
) -> None:
    before = thread_inode()
    made = make_namespace("a")
    assert thread_inode() == before != made.inode
    with made.entered():
        assert thread_inode() == made.inode
        assert loopback_flags() & 1
        socket.create_server(("127.0.0.1", 80)).close()
    path = made.description.split()[-1]
    with netns.open_path(path) as by_path, netns.open_path(Path(path).name) as by_name:
        assert by_path.is_same_as(made)
        assert by_name.is_same_as(made)


@pytest.mark.netns
def test_create_named_existing_path_is_refused_and_kept(
    make_namespace: Callable[[str], NetworkNamespace], tmp_path: Path
) -> None:
    made = make_namespace("a")
    path = Path(made.description.split()[-1])
    with pytest.raises(KernelError, match=f"cannot make network namespace {path}: File exists"):
        netns.create_named(path)
    with netns.open_path(path) as again:
        assert again.is_same_as(made)
    (tmp_path / "file").write_text("")
    with pytest.raises(KernelError, match=r"cannot make network namespace .*/below: File exists"):
        netns.create_named(tmp_path / "file" / "below")


@pytest.mark.netns
def test_create_named_without_privilege_is_refused_and_leaves_nothing(
    make_namespace: Callable[[str], NetworkNamespace],
) -> None:
    make_namespace("unused")  # skips without root
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        child = os.fork()
        if child == 0:
            message = ""
            try:
                os.setuid(65534)
                netns.create_named(Path(directory, "a"))
            except KernelError as error:
                message = str(error)
            finally:
                os._exit(0 if message.endswith("/a: Operation not permitted") else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert list(Path(directory).iterdir()) == []


@pytest.mark.netns
def test_remove_named_may_be_repeated(
    make_namespace: Callable[[str], NetworkNamespace], tmp_path: Path
) -> None:
    path = Path(make_namespace("a").description.split()[-1])
    netns.remove_named(path)
    assert not path.exists()
    netns.remove_named(path)
    netns.remove_named(tmp_path / "file" / "that" / "never" / "was")


@pytest.mark.netns
def test_remove_named_directory_is_refused(
    make_namespace: Callable[[str], NetworkNamespace], tmp_path: Path
) -> None:
    make_namespace("unused")  # skips without root
    with pytest.raises(KernelError, match=f"cannot remove network namespace {tmp_path}: Is a directory"):
        netns.remove_named(tmp_path)


@pytest.mark.netns
def test_entered_nests_and_returns_after_an_exception(
    make_namespace: Callable[[str], NetworkNamespace],
) -> None:
    outer, inner = make_namespace("outer"), make_namespace("inner")
    before = thread_inode()
    with outer.entered():
        with pytest.raises(ZeroDivisionError), inner.entered():
            fail_inside(inner)
        assert thread_inode() == outer.inode
    assert thread_inode() == before


@pytest.mark.netns
def test_entered_without_a_way_back_ends_the_process(
    make_namespace: Callable[[str], NetworkNamespace],
) -> None:
    path = make_namespace("a").description.split()[-1]
    program = (
        "import os, sys; from interceptor.kernel import netns\n"
        "try:\n"
        f"    with netns.open_path({path!r}).entered():\n"
        "        os.closerange(3, 100)\n"
        "except BaseException:\n"
        "    sys.exit('went on in the wrong namespace')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.stderr == "interceptor: cannot leave a network namespace: Bad file descriptor\n"
    assert ended.returncode == netns.LOST_NAMESPACE_EXIT_STATUS


@pytest.mark.netns
def test_open_socket_lives_inside(make_namespace: Callable[[str], NetworkNamespace]) -> None:
    made = make_namespace("a")
    with made.open_socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        assert sock.gettimeout() == 0
        assert not os.get_blocking(sock.fileno())
        assert not os.get_inheritable(sock.fileno())
        cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 71, 8), sys.byteorder)
    with netns.current() as current:
        assert made.cookie() == cookie != current.cookie()


@pytest.mark.netns
def test_processes_come_and_go(make_namespace: Callable[[str], NetworkNamespace]) -> None:
    made = make_namespace("a")
    assert not made.has_processes()
    with made.entered():
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    with process:
        assert made.processes() == (process.pid,)
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    assert not made.has_processes()


@pytest.mark.netns
def test_has_ipv6_follows_the_sysctl_of_that_namespace(
    make_namespace: Callable[[str], NetworkNamespace],
) -> None:
    made = make_namespace("a")
    assert made.has_ipv6()
    with made.entered():
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    assert not made.has_ipv6()
    with netns.current() as current:
        assert current.has_ipv6() == (
            Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").read_text().strip() == "0"
        )
