"""Joining an authority elsewhere, and being known again after a restart: against a real service on loopback."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.agent.joined_authority import TRUST_FILE, JoinedAuthority
from interceptor.agent.kept_identity import KeptIdentity
from interceptor.config import Config, PathsConfig
from interceptor.credentials import Credentials
from interceptor.errors import AuthorityError
from interceptor.identity.node_id import NodeId
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.svid import NodeSvid
from tests.authority_service.running import DEADLINE_SECONDS, DOMAIN, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.bpf  # for the kernel's keyring

NAME = "node-a"


@pytest.fixture
async def service(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Service]:
    directory = tmp_path / "ca"
    directory.mkdir(mode=0o700)
    service = Service(directory)
    await service.start(nursery)
    yield service
    await service.stop()
    service.close()


@pytest.fixture
async def access(service: Service, tmp_path: Path) -> AsyncIterator[Callable[..., JoinedAuthority]]:
    """Makes what an agent has after each of its starts, with one state directory."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    made: list[JoinedAuthority] = []

    def make(token: str | None = None) -> JoinedAuthority:
        config = Config(node=NAME, trust_domain=DOMAIN, paths=PathsConfig(state_dir=state))
        made.append(JoinedAuthority(config, service.endpoint, token))
        return made[-1]

    yield make
    for each in made:
        each.close()
    KeptIdentity(state).remove()


async def test_node_joins_with_its_token_and_is_known_again_also_while_the_authority_is_away(
    service: Service, access: Callable[..., JoinedAuthority], tmp_path: Path
) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        first = access(service.token(NAME))
        document = await first.open()
        assert document == service.store.trust_document()
        assert first.link.svid is not None
        await service.stop()
        again = access()
        assert await again.open() == document
    assert again.link.svid == first.link.svid
    assert (tmp_path / "state" / TRUST_FILE).stat().st_mode & 0o777 == 0o600


async def test_node_that_never_joined_is_told_how_to(
    service: Service, access: Callable[..., JoinedAuthority]
) -> None:
    with pytest.raises(AuthorityError) as caught:
        await access().open()
    assert str(caught.value) == (
        f"node {NAME} has not joined the authority at {service.endpoint} since the last boot: make a token with "
        f"'interceptor ca token create --node {NAME}' where the authority is, and start with 'interceptor up "
        "--join-token-file FILE'"
    )


async def test_token_that_was_used_lets_nobody_in_but_who_was_in_already(
    service: Service, access: Callable[..., JoinedAuthority], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A service manager that starts the agent with the same token each time."""
    token = service.token(NAME)
    with trio.fail_after(DEADLINE_SECONDS):
        await access(token).open()
        caplog.set_level(logging.WARNING)
        await access(token).open()
        assert "token_used" in caplog.text
        KeptIdentity(tmp_path / "state").remove()
        with pytest.raises(AuthorityError, match="token_used"):
            await access(token).open()


@pytest.mark.parametrize("content", [None, b"", b"{}"])
async def test_node_whose_trust_document_is_gone_joins_again(
    service: Service, access: Callable[..., JoinedAuthority], content: bytes | None, tmp_path: Path
) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        await access(service.token(NAME)).open()
        path = tmp_path / "state" / TRUST_FILE
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(AuthorityError, match="has not joined"):
            await access().open()
        await access(service.token(NAME)).open()
        await access().open()


async def test_node_whose_own_certificate_has_expired_is_told_so(
    service: Service, access: Callable[..., JoinedAuthority], tmp_path: Path
) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        await access(service.token(NAME)).open()
    node, key = NodeId(DOMAIN, NAME), create_private_key()
    request, past = create_signing_request(node, key), datetime.now(UTC) - timedelta(seconds=30)
    chain = service.issuer.sign(request, node, timedelta(seconds=10), past)
    KeptIdentity(tmp_path / "state").store(NodeSvid(node, chain, key, past))
    with pytest.raises(AuthorityError, match=f"certificate of node {NAME} expired at .*: make a token"):
        await access().open()


async def test_renewed_certificate_is_kept_and_what_is_believed_too(
    service: Service, access: Callable[..., JoinedAuthority], nursery: trio.Nursery
) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        joined = access(service.token(NAME))
        document = await joined.open()
        first = joined.link.svid
        tell, told = trio.open_memory_channel[NodeSvid](2)
        credentials = Credentials(joined.link, timedelta(hours=1), service.clock, observer=None)  # type: ignore[arg-type]
        nursery.start_soon(joined.run, credentials, tell.send_nowait)
        assert await told.receive() == first
        credentials.bring_forward(lambda _: True, timedelta(0))
        second = await told.receive()
        assert second == joined.link.svid
        assert second != first
        more = replace(document, aliases=(type(DOMAIN)("old.example"),))
        joined.keep(more)
        again = access()
        assert await again.open() == more
        assert again.link.svid == second
        nursery.cancel_scope.cancel()
