"""Steps on the state in a Secret: each is made whole or not at all, and none is lost when several are made at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.authority_service.leadership import Leadership
from interceptor.authority_service.shared_state import SharedState, prepare_home
from interceptor.errors import ClusterError, StateError
from interceptor.identity.revocation import RevocationKind
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient
from tests.authority_service.replicas import LEASE, SECRET, SHARED, hurry, until
from tests.authority_service.running import DOMAIN, Clock
from tests.kubernetes.api_server import ApiServer, running
from tests.kubernetes.named_objects import NamedObjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from interceptor.authority_store import AuthorityStore


class Steps:
    """The state in the Secret of an API server."""

    def __init__(self, api: ApiServer, kept: NamedObjects, state: SharedState) -> None:
        self.api = api
        self.kept = kept
        self.state = state

    async def revoke(self, account: str, **options: object) -> None:
        await self.state.step(lambda store: _revoke(store, account), Clock()(), **options)  # type: ignore[arg-type]

    async def revoked(self) -> set[str]:
        entries = await self.state.step(lambda store: store.revocations(), Clock()())
        return {each.value.rpartition("/")[2] for each in entries}


def _revoke(store: AuthorityStore, account: str) -> None:
    store.revoke(RevocationKind.IDENTITY, f"spiffe://{DOMAIN}/ns/shop/sa/{account}", "", Clock()())


@pytest.fixture
async def api() -> AsyncIterator[tuple[ApiServer, NamedObjects]]:
    api = ApiServer()
    kept = NamedObjects(api)
    async with running(api):
        yield api, kept


@pytest.fixture
async def steps(api: tuple[ApiServer, NamedObjects], tmp_path: Path) -> AsyncIterator[Steps]:
    server, kept = api
    async with ApiClient(ApiAccess(server.url, None, None)) as client:
        state = SharedState(client, SHARED.secret, tmp_path, None)
        await state.create(DOMAIN, Clock()())
        yield Steps(server, kept, state)
    assert not await trio.to_thread.run_sync(lambda: list(tmp_path.iterdir())), "keys were left behind"


async def test_step_is_made_on_what_others_left_when_they_were_faster(steps: Steps) -> None:
    steps.kept.before_write.append(steps.kept.touch)
    await steps.revoke("web")
    assert await steps.revoked() == {"web"}
    assert steps.kept.writes == [f"POST {SECRET}", f"PUT {SECRET}"]


async def test_steps_at_once_are_all_made(steps: Steps) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(steps.revoke, f"web-{number}")
    assert await steps.revoked() == {f"web-{number}" for number in range(4)}


async def test_step_that_always_comes_too_late_is_given_up(steps: Steps) -> None:
    steps.kept.before_write.extend([steps.kept.touch] * 5)
    with pytest.raises(ClusterError, match="changed by others 5 times meanwhile: repeat it"):
        await steps.revoke("web")
    assert await steps.revoked() == set()


async def test_step_of_a_leader_that_lost_the_lease_meanwhile_changes_nothing(steps: Steps) -> None:
    before = steps.kept.objects[SECRET]
    with pytest.raises(ClusterError, match="does not lead any more"):
        await steps.revoke("web", may_write=lambda: False)
    assert steps.kept.objects[SECRET] == before


async def test_write_of_a_former_leader_that_arrives_late_changes_nothing(steps: Steps) -> None:
    """Its request was on the way when another took over and wrote."""
    others: list[str] = []

    def other_writes(path: str) -> None:
        steps.kept.touch(path)
        others.append(steps.kept.objects[path]["metadata"]["resourceVersion"])

    steps.kept.before_write.append(other_writes)
    may = iter([True, False])
    with pytest.raises(ClusterError, match="does not lead any more"):
        await steps.revoke("web", may_write=lambda: next(may))
    assert steps.kept.objects[SECRET]["metadata"]["resourceVersion"] == others[0]


async def test_step_that_fails_in_the_middle_changes_nothing(steps: Steps) -> None:
    def fail(store: AuthorityStore) -> None:
        _revoke(store, "web")
        store.rotate_intermediate(Clock()())
        raise StateError("the disk is full")

    with pytest.raises(StateError, match="the disk is full"):
        await steps.state.step(fail, Clock()())
    assert await steps.revoked() == set()
    assert len(steps.kept.writes) == 1


async def test_looking_writes_nothing(steps: Steps) -> None:
    assert await steps.revoked() == set()
    assert len(steps.kept.writes) == 1


async def test_step_without_the_api_or_an_authority_says_so(steps: Steps) -> None:
    steps.api.is_away = True
    with pytest.raises(ClusterError, match="503"):
        await steps.revoke("web")
    steps.api.is_away = False
    steps.kept.objects.clear()
    with pytest.raises(
        StateError, match=r"there is no authority in Secret interceptor/interceptor-authority"
    ):
        await steps.revoke("web")


async def test_authority_is_not_made_where_there_is_one(steps: Steps) -> None:
    before = steps.kept.objects[SECRET]
    await steps.state.create(DOMAIN, Clock()())
    assert steps.kept.objects[SECRET] == before


def test_what_a_killed_step_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    left = tmp_path / "home" / "step-abc" / "authority"
    left.mkdir(parents=True)
    (left / "root.key").write_text("key")
    prepare_home(tmp_path / "home")
    assert list((tmp_path / "home").iterdir()) == []


def test_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot use the directory"):
        prepare_home(tmp_path / "file" / "home")


@pytest.fixture
async def rivals(
    api: tuple[ApiServer, NamedObjects], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[ApiServer, list[Leadership]]]:
    """Two that want to lead, each over a connection of its own to the API."""
    hurry(monkeypatch)
    server, _ = api
    async with ApiClient(ApiAccess(server.url, None, None)) as client, trio.open_nursery() as nursery:
        rivals = [Leadership(client, SHARED.lease, name, Clock()) for name in ("one", "two")]
        nursery.start_soon(rivals[0].run)
        await until(lambda: rivals[0].is_ours)
        await trio.sleep(0.05)  # in step with each other only the version would decide
        nursery.start_soon(rivals[1].run)
        yield server, rivals
        nursery.cancel_scope.cancel()


async def test_at_most_one_leads_while_the_api_comes_and_goes(
    rivals: tuple[ApiServer, list[Leadership]],
) -> None:
    server, both = rivals
    seen = set()

    async def watch() -> None:
        while True:
            leading = [rival for rival in both if rival.is_ours]
            assert len(leading) <= 1, "two lead at once"
            seen.add(len(leading))
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(0.2)
        server.is_away = True
        await until(lambda: 0 in seen)  # the leader knows by itself that it is none any more
        server.is_away = False
        await until(lambda: any(rival.is_ours for rival in both))
        nursery.cancel_scope.cancel()
    assert seen == {0, 1}


async def test_lease_of_which_nobody_knows_is_told_once(
    rivals: tuple[ApiServer, list[Leadership]], caplog: pytest.LogCaptureFixture
) -> None:
    server, both = rivals
    server.forbids = lambda _, path, __: "no rights" if path == LEASE else None
    await until(lambda: not any(rival.is_ours for rival in both))
    await until(lambda: caplog.text.count("cannot see who leads") == 2)
    assert "'no rights'" in caplog.text
