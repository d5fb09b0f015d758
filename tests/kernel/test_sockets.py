"""Socket options on real sockets; those that need BPF or a borrowed address are tested with those."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import KernelError
from interceptor.kernel import abi, sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interceptor.kernel.netns import NetworkNamespace


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection over loopback: the client's and the accepted socket."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with (
        socket.create_server((request.param, 0), family=family) as listening,
        socket.create_connection(listening.getsockname()[:2], timeout=2) as client,
        listening.accept()[0] as accepted,
    ):
        accepted.settimeout(2)
        yield client, accepted


def test_original_destination_of_a_connection_that_was_not_captured_is_none(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    assert sockets.original_destination(pair[1]) is None


def test_original_destination_of_something_else_than_a_socket_of_ours_is_an_error() -> None:
    with socket.socket() as sock:
        sock.close()
        with pytest.raises(KernelError, match="cannot ask for the original destination: Bad file"):
            sockets.original_destination(sock)


@pytest.mark.netns
@pytest.mark.parametrize(
    ("family", "foreign"), [(socket.AF_INET, "192.0.2.5"), (socket.AF_INET6, "2001:db8::5")]
)
def test_transparent_socket_binds_to_a_foreign_address(
    make_namespace: Callable[[str], NetworkNamespace], family: int, foreign: str
) -> None:
    namespace = make_namespace("a")
    with (
        namespace.open_socket(family, socket.SOCK_STREAM) as plain,
        pytest.raises(OSError, match="Cannot assign"),
    ):
        plain.bind((foreign, 0))
    with namespace.open_socket(family, socket.SOCK_STREAM) as sock:
        sockets.make_transparent(sock)
        sock.bind((foreign, 0))
        assert sock.getsockname()[:2] == (foreign, 0)  # the port is chosen at connect
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == abi.RETURN_PATH_MARK


@pytest.mark.netns
def test_transparent_socket_without_privilege_is_refused(
    make_namespace: Callable[[str], NetworkNamespace],
) -> None:
    with make_namespace("a").open_socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setuid(65534)
                sockets.make_transparent(sock)
            except KernelError as error:
                status = 0 if str(error).endswith("not permitted; the agent needs CAP_NET_ADMIN") else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
