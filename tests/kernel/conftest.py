"""Network namespaces for tests: each named after its test, and gone with it, however it ends."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
from typing import TYPE_CHECKING

import pytest

from interceptor.agent.directories import BPFFS
from interceptor.kernel import capture
from interceptor.kernel.bpf_program import load_programs
from interceptor.kernel.headers import find_headers
from interceptor.kernel.netns import NAMED_NAMESPACES, NetworkNamespace, create_named, remove_named
from interceptor.kernel.pinned import keep_maps
from tests.harness.process import is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from interceptor.kernel.bpf_program import Programs


@pytest.fixture(scope="session")
def _swept_namespaces() -> None:
    """Remove the namespaces of test processes that were killed."""
    if os.geteuid() != 0:
        pytest.skip("makes network namespaces: needs root")
    for path in NAMED_NAMESPACES.glob("itest-*-*"):
        pid = path.name.split("-")[1]
        if pid.isdecimal() and not is_alive(int(pid)):
            remove_named(path)


@pytest.fixture(scope="module")
def load(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path | None], Programs]:
    """Compiles and loads, with the kept maps of a directory; in a module with IS_OLDER, what older kernels need."""
    headers = find_headers(None, platform.release(), tmp_path_factory.mktemp("headers"))
    is_older = getattr(request.module, "IS_OLDER", None)
    return lambda bpf_dir: load_programs(headers.path, bpf_dir, is_older=is_older)


@pytest.fixture(scope="module")
def programs(bpf_file_system: None, load: Callable[[Path | None], Programs]) -> Iterator[Programs]:
    programs = load(None)
    yield programs
    with contextlib.suppress(OSError):
        programs.close()


@pytest.fixture(scope="module")
def next_programs(programs: Programs, load: Callable[[Path | None], Programs]) -> Iterator[Programs]:
    """Those of the agent that comes after the one that loaded `programs`."""
    bpf_dir = BPFFS / f"itest-next-{os.getpid()}"
    bpf_dir.mkdir(mode=0o700)
    keep_maps(programs, bpf_dir)
    following = load(bpf_dir)
    capture.release(bpf_dir)
    yield following
    following.close()


@pytest.fixture
def make_namespace(
    request: pytest.FixtureRequest, _swept_namespaces: None
) -> Iterator[Callable[[str], NetworkNamespace]]:
    """Makes a network namespace /run/netns/itest-<our pid>-<test>-<role>: other test processes make theirs meanwhile."""
    stem = f"itest-{os.getpid()}-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:80].strip("-")
    made: list[NetworkNamespace] = []

    def make(role: str) -> NetworkNamespace:
        path = NAMED_NAMESPACES / f"{stem}-{role}"
        request.addfinalizer(lambda: remove_named(path))
        made.append(create_named(path))
        return made[-1]

    yield make
    for namespace in made:
        namespace.close()


@pytest.fixture
def host(make_namespace: Callable[[str], NetworkNamespace]) -> Iterator[NetworkNamespace]:
    """A namespace that plays the host: the test runs inside, so that the machine's own network is left alone."""
    namespace = make_namespace("host")
    with namespace.entered():
        yield namespace


@pytest.fixture
def listen() -> Iterator[Callable[[NetworkNamespace, str, int], socket.socket]]:
    """Makes a listening TCP socket in a namespace, with two seconds of patience; closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(namespace: NetworkNamespace, address: str, port: int) -> socket.socket:
            sock = stack.enter_context(namespace.open_socket(_family(address), socket.SOCK_STREAM))
            sock.settimeout(2)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen()
            return sock

        yield make


@pytest.fixture
def connect() -> Iterator[Callable[[NetworkNamespace, socket.socket], tuple[socket.socket, socket.socket]]]:
    """Connects from a namespace to a listening socket; the client's and the accepted socket, closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(
            namespace: NetworkNamespace, listening: socket.socket
        ) -> tuple[socket.socket, socket.socket]:
            sock = stack.enter_context(namespace.open_socket(listening.family, socket.SOCK_STREAM))
            sock.settimeout(2)
            sock.connect(listening.getsockname()[:2])
            accepted = stack.enter_context(listening.accept()[0])
            accepted.settimeout(2)
            return sock, accepted

        yield make


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
