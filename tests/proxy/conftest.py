"""A mesh on loopback, and what must be true after every test: no socket left open, OpenSSL's error queue empty."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

from tests.proxy.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trio


@pytest.fixture(autouse=True)
def _clean_error_queue() -> Iterator[None]:
    """The queue belongs to the thread: what one connection leaves there, the next takes for its own failure."""
    assert SSL._lib.ERR_peek_error() == 0
    yield
    left = SSL._lib.ERR_peek_error()
    SSL._lib.ERR_clear_error()
    assert left == 0


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
