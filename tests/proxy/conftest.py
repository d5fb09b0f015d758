"""A mesh on loopback, and what must be true after every test: no socket left open, OpenSSL's error queue empty."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.harness.openssl_errors import clean_error_queue
from tests.proxy.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trio

__all__ = ["clean_error_queue"]


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mesh]:
    """A mesh in STRICT mode that nobody has started."""
    with _closed_in_the_end(Mesh(), monkeypatch) as mesh:
        yield mesh


@pytest.fixture
def running(mesh: Mesh, nursery: trio.Nursery) -> Mesh:
    """The same with both proxies running."""
    mesh.start(nursery)
    return mesh


@pytest.fixture
def ipv6_mesh(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> Iterator[Mesh]:
    """A running mesh whose destination has an IPv6 address."""
    with _closed_in_the_end(Mesh(ipv6=True), monkeypatch) as mesh:
        mesh.start(nursery)
        yield mesh


@contextlib.contextmanager
def _closed_in_the_end(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mesh]:
    monkeypatch.setattr("interceptor.proxy.outbound.TUNNEL_PORT", mesh.destination.tunnel.getsockname()[1])
    yield mesh
    for side in (mesh.source, mesh.destination):
        for listener in (side.outbound, side.plaintext, side.tunnel):
            listener.close()
        assert [sock for sock in side.sockets if sock.fileno() >= 0] == []
