"""An authority known by its host's name: looked up anew for each connection, and not believed because of it."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

from interceptor.authority.address import HostEndpoint
from interceptor.authority_client import AuthorityClient, resolve
from interceptor.errors import AuthorityUnavailable
from tests.authority_service.running import DEADLINE_SECONDS, DOMAIN, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOST = "ca.example.org"


@pytest.fixture
async def service(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Service]:
    service = Service(tmp_path)
    await service.start(nursery)
    yield service
    await service.stop()
    service.close()


class Names:
    """A name server that says what it is told to."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[str] = []
        self.hangs = threading.Event()
        self.hangs.set()

    def __call__(self, host: str, port: int, **_: object) -> list[Any]:
        self.asked.append(host)
        self.hangs.wait(DEADLINE_SECONDS)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.addresses]


def named(
    service: Service, monkeypatch: pytest.MonkeyPatch, *addresses: str
) -> tuple[AuthorityClient, Names]:
    names = Names(*addresses)
    monkeypatch.setattr(resolve.socket, "getaddrinfo", names)
    client = AuthorityClient(HostEndpoint(HOST, service.endpoint.port), DOMAIN, "node-a", service.clock)
    return client, names


async def test_name_is_looked_up_for_each_connection_and_its_addresses_are_tried_in_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody listens on the first; the second has a zone, as a link-local one may have.
    client, names = named(service, monkeypatch, "127.0.0.2", "fe80::1%lo", "127.0.0.1")
    with trio.fail_after(DEADLINE_SECONDS):
        await client.join(service.token("node-a"))
        asked = len(names.asked)
        await client.trust(None)
        assert len(names.asked) == asked + 1
        client.close()
        await client.registry(None)
        assert len(names.asked) == asked + 2
    client.close()
    assert set(names.asked) == {HOST}


async def test_name_that_leads_to_somebody_else_is_no_way_in(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Whoever answers there must be the authority by its certificate; the name says nothing."""
    (tmp_path / "other").mkdir(mode=0o700)
    other = Service(tmp_path / "other")
    await other.start(nursery)
    client, names = named(service, monkeypatch, "127.0.0.1")
    with trio.fail_after(DEADLINE_SECONDS):
        await client.join(service.token("node-a"))
        client.close()
        client._way.address = HostEndpoint(HOST, other.endpoint.port)
        with pytest.raises(AuthorityUnavailable, match=f"no TLS with the authority at {HOST}:"):
            await client.trust(None)
    client.close()
    assert names.asked
    assert other.audit("issued") == []
    await other.stop()
    other.close()


async def test_name_that_nobody_knows_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = named(service, monkeypatch)
    with pytest.raises(AuthorityUnavailable, match=f"the name {HOST} cannot be resolved"):
        await client.join(service.token("node-a"))


async def test_name_without_an_address_of_use_is_told(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = named(service, monkeypatch, "fe80::1%lo")
    with pytest.raises(AuthorityUnavailable, match=f"{HOST}:{service.endpoint.port} has no address"):
        await client.join(service.token("node-a"))


async def test_name_server_that_hangs_holds_up_nobody_else(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "RESOLVE_SECONDS", 0.1)
    client, names = named(service, monkeypatch, "127.0.0.1")
    names.hangs.clear()
    token, failures = service.token("node-a"), []

    async def ask() -> None:
        with pytest.raises(AuthorityUnavailable) as caught:
            await client.join(token)
        failures.append(str(caught.value))

    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(3 * resolve.MAX_LOOKUPS):
            nursery.start_soon(ask)
    assert time.monotonic() - began < 5
    assert set(failures) == {f"the name {HOST} was not resolved within 0.1 s: see this node's name servers"}
    assert len(names.asked) == resolve.MAX_LOOKUPS  # no more threads than these are held up
    names.hangs.set()
    with trio.fail_after(DEADLINE_SECONDS):
        monkeypatch.setattr(resolve, "RESOLVE_SECONDS", 5.0)
        await client.join(token)
    client.close()
