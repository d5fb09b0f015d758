"""Joining an authority elsewhere, and being known again after a restart: against a real service on loopback."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.agent import return_tokens
from interceptor.agent.joined_authority import TRUST_COPY, TRUST_FILE, JoinedAuthority
from interceptor.agent.kept_identity import SECRET_FILE, KeptIdentity
from interceptor.agent.return_tokens import RETURN_FILE
from interceptor.authority_client import AuthorityClient
from interceptor.authority_service import DeskLimits
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


def booted(tmp_path: Path) -> None:
    """What a boot does: the keyring is empty, the disk is as it was."""
    KeptIdentity(tmp_path / "state").forget()


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
        booted(tmp_path)
        (tmp_path / "state" / RETURN_FILE).unlink()
        with pytest.raises(AuthorityError, match="token_used"):
            await access(token).open()


@pytest.mark.parametrize("content", [None, b"", b"{}"])
async def test_node_whose_trust_document_is_gone_joins_again(
    service: Service, access: Callable[..., JoinedAuthority], content: bytes | None, tmp_path: Path
) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        await access(service.token(NAME)).open()
        for path in (tmp_path / "state" / TRUST_FILE, tmp_path / "state" / TRUST_COPY):
            path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(
            AuthorityError, match=r"/trust\.json and .* hold nothing that can be believed: make"
        ):
            await access().open()
        await access(service.token(NAME)).open()
        await access().open()


@pytest.mark.parametrize("name", [TRUST_FILE, TRUST_COPY])
@pytest.mark.parametrize("content", [None, b"", b"{}"])
async def test_node_one_of_whose_trust_documents_is_not_whole_goes_on_with_the_other(
    service: Service,
    access: Callable[..., JoinedAuthority],
    name: str,
    content: bytes | None,
    tmp_path: Path,
) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        document = await access(service.token(NAME)).open()
        path = tmp_path / "state" / name
        path.unlink() if content is None else path.write_bytes(content)
        assert await access().open() == document
        assert path.read_bytes() == document.to_json()


async def test_node_whose_half_of_the_keys_key_is_gone_comes_back(
    service: Service, access: Callable[..., JoinedAuthority], tmp_path: Path
) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        await access(service.token(NAME)).open()
        (tmp_path / "state" / SECRET_FILE).write_bytes(b"half")
        await access().open()


async def test_nodes_that_join_all_at_once_wait_for_their_turn(
    tmp_path: Path, nursery: trio.Nursery, access: Callable[..., JoinedAuthority], service: Service
) -> None:
    await service.stop()
    service.options["desk_limits"] = DeskLimits(joins_at_once=1, joins_per_second=4)
    await service.start(nursery)
    with trio.fail_after(DEADLINE_SECONDS):
        for _ in range(3):
            await access(service.token(NAME)).open()
    assert {line["code"] for line in service.audit("refused")} == {"rate_limited"}


async def test_node_whose_own_certificate_has_expired_is_told_so(
    service: Service, access: Callable[..., JoinedAuthority], tmp_path: Path
) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        await access(service.token(NAME)).open()
    node, key = NodeId(DOMAIN, NAME), create_private_key()
    request, past = create_signing_request(node, key), datetime.now(UTC) - timedelta(seconds=30)
    chain = service.issuer.sign(request, node, timedelta(seconds=10), past)
    KeptIdentity(tmp_path / "state").store(NodeSvid(node, chain, key, past))
    (tmp_path / "state" / RETURN_FILE).unlink()
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


async def test_node_comes_back_after_a_boot_by_itself_as_often_as_it_is_booted(
    service: Service, access: Callable[..., JoinedAuthority], tmp_path: Path
) -> None:
    file = tmp_path / "state" / RETURN_FILE
    with trio.fail_after(DEADLINE_SECONDS):
        first = access(service.token(NAME))
        await first.open()
        copies = [file.read_text()]
        assert file.stat().st_mode & 0o777 == 0o600
        for _ in range(3):
            booted(tmp_path)
            again = access()
            assert await again.open() == service.store.trust_document()
            assert again.link.svid != first.link.svid
            copies.append(file.read_text())
    assert len(set(copies)) == 4
    assert "PRIVATE" not in copies[-1]


async def test_node_whose_token_stays_configured_comes_back_with_its_return_token(
    service: Service, access: Callable[..., JoinedAuthority], tmp_path: Path
) -> None:
    token = service.token(NAME)
    with trio.fail_after(DEADLINE_SECONDS):
        await access(token).open()
        for _ in range(2):
            booted(tmp_path)
            await access(token).open()


async def test_node_that_is_killed_at_any_moment_of_its_return_comes_back(
    service: Service, access: Callable[..., JoinedAuthority], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the next token is on the disk, before the request, after the authority's answer, before that is kept."""
    moments = (
        (return_tokens, "write_atomically", 0),
        (AuthorityClient, "_join", 0),
        (AuthorityClient, "_use", 0),
        (return_tokens, "write_atomically", 1),
    )
    with trio.fail_after(DEADLINE_SECONDS):
        await access(service.token(NAME)).open()
        for owner, name, after in moments:
            booted(tmp_path)
            with monkeypatch.context() as patch:
                killed(patch, owner, name, after)
                with pytest.raises(Killed):
                    await access().open()
            booted(tmp_path)
            await access().open()
    codes = [line["code"] for line in service.audit("refused")]
    assert codes == ["return_token_advanced"] * 2  # after the answer, there is one more


async def test_node_whose_certificate_ended_in_an_outage_goes_on_when_the_authority_is_back(
    service: Service, access: Callable[..., JoinedAuthority], nursery: trio.Nursery, tmp_path: Path
) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        joined = access(service.token(NAME))
        await joined.open()
        first = joined.link.svid
        service.clock.off = timedelta(hours=25)  # the authority's clock, and certificates', have gone on
        monkey = joined.link
        monkey._now = monkey._channel._now = service.clock
        with pytest.raises(AuthorityError, match="node_identity_expired"):
            await joined.link.registry(None)
        await joined._renew()
        assert joined.link.svid != first
        await joined.link.registry(None)


async def test_node_whose_disk_is_a_copy_is_told_that_somebody_was_faster(
    service: Service, access: Callable[..., JoinedAuthority], tmp_path: Path
) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        await access(service.token(NAME)).open()
        file = tmp_path / "state" / RETURN_FILE
        copy = file.read_bytes()
        booted(tmp_path)
        await access().open()
        file.write_bytes(copy)
        booted(tmp_path)
        with pytest.raises(AuthorityError, match=r"^return_token_used: .*: make a token with"):
            await access().open()


async def test_return_token_that_cannot_be_kept_is_a_problem_and_stops_nothing(
    service: Service, access: Callable[..., JoinedAuthority], tmp_path: Path
) -> None:
    (tmp_path / "state" / f".{RETURN_FILE}.new").mkdir()
    with trio.fail_after(DEADLINE_SECONDS):
        joined = access(service.token(NAME))
        await joined.open()
        assert joined.problem is not None
        assert str(tmp_path / "state" / RETURN_FILE) in joined.problem
        (tmp_path / "state" / f".{RETURN_FILE}.new").rmdir()
        await joined._renew()
        assert joined.problem is None
        booted(tmp_path)
        await access().open()


class Killed(BaseException):
    """Nothing that comes after it happens."""


def killed(patch: pytest.MonkeyPatch, owner: object, name: str, after: int) -> None:
    """End the process, as far as it matters, at call number `after` of a function."""
    original, calls = getattr(owner, name), []

    def dies(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > after:
            raise Killed
        return original(*arguments)

    patch.setattr(owner, name, dies)
