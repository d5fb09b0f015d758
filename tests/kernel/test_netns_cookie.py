"""The way to a namespace's cookie that older kernels need; newer ones answer the same."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import KernelError
from interceptor.kernel import netns as kernel_netns
from interceptor.kernel import netns_cookie
from interceptor.kernel.netns_cookie import observed_cookie

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from interceptor.kernel.netns import NetworkNamespace

pytestmark = [pytest.mark.bpf, pytest.mark.netns]


def test_observed_cookie_is_the_one_that_the_socket_option_tells(
    make_namespace: Callable[[str], NetworkNamespace],
) -> None:
    first, second = make_namespace("a"), make_namespace("b")
    found = [
        observed_cookie(lambda n=n: n.open_socket(socket.AF_INET, socket.SOCK_DGRAM)) for n in (first, second)
    ]
    assert found == [first.cookie(), second.cookie()]
    assert found[0] != found[1]


def test_cookie_without_a_cgroup_of_version_2_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netns_cookie, "find_cgroup2", lambda: tmp_path)
    with pytest.raises(KernelError, match="the cookie of a network namespace cannot be had"):
        observed_cookie(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def test_observed_cookie_of_a_socket_is_that_of_its_namespace(
    make_namespace: Callable[[str], NetworkNamespace],
) -> None:
    namespace = make_namespace("a")
    with namespace.open_socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        assert kernel_netns._observed_cookie_of(sock) == namespace.cookie()
