"""The policy in force follows the files; what cannot be used leaves the last good one, or at the start denies all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio

from interceptor.agent import policy_keeper
from interceptor.agent.audit import Audit
from interceptor.agent.policy_journal import replace_files
from interceptor.agent.policy_keeper import PolicyKeeper
from interceptor.config import parse_config
from interceptor.errors import PolicyError
from interceptor.policy.policy_set import PolicySet
from interceptor.policy.verdict import Permit
from interceptor.proxy.snapshot import Snapshot
from interceptor.telemetry.metrics import Metrics
from tests.policy.world import DB, WEB, authorization, exception, to, word

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DENY = authorization("deny", action="DENY", rules="[{}]")


class World:
    """A keeper with its files; `now` can be moved."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "policies"
        self.state = directory / "state"
        self.state.mkdir()
        self.now = datetime(2027, 1, 15, tzinfo=UTC)
        text = f"paths: {{state: {self.state}, policies: {self.directory}}}\n"
        self.config = parse_config(text, "config.yaml", node="node-1")
        self.metrics = Metrics()
        self.audit = Audit(self.state / "audit.jsonl", 1_000_000, lambda: self.now)
        self.restart()

    def restart(self) -> None:
        self.policy = Snapshot(PolicySet(self.config.mode))
        self.keeper = PolicyKeeper(self.config, self.policy, self.audit, list, lambda: self.now, self.metrics)

    def write(self, name: str, text: str) -> None:
        self.directory.mkdir(exist_ok=True)
        (self.directory / name).write_text(text)

    def verdict(self) -> str:
        return word(self.policy.value.decide_inbound(to(DB, WEB)))

    def metric(self, name: str) -> float:
        lines = self.metrics.expose().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def events(self) -> list[dict[str, Any]]:
        """What is in the audit trail, which is written some time after the policy is in force."""
        self.audit.flush()
        if not (self.state / "audit.jsonl").exists():
            return []
        return [json.loads(line) for line in (self.state / "audit.jsonl").read_text().splitlines()]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(policy_keeper, "POLL_SECONDS", 0.01)
    return World(tmp_path)  # type: ignore[return-value]


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - a file has no event
            await trio.sleep(0.005)


def test_no_directory_is_no_policies(world: World) -> None:
    world.keeper.start()
    assert (world.verdict(), world.keeper.error) == ("mutual_tls", "")


async def test_change_of_files_is_in_force_soon_and_noted(world: World, nursery: trio.Nursery) -> None:
    world.keeper.start()
    nursery.start_soon(world.keeper.run)
    world.write("a.yaml", DENY)
    await until(lambda: world.verdict() == "policy_denied" and len(world.events()) == 1)
    (event,) = world.events()
    assert (event["event"], event["by"]) == ("policy_changed", "files of uid 0")
    assert event["added"] == ["AuthorizationPolicy shop/deny"]
    assert "+kind: AuthorizationPolicy" in event["diff"]
    world.write("a.yaml", DENY.replace("DENY", "ALLOW"))
    await until(lambda: world.verdict() == "mutual_tls" and len(world.events()) == 2)
    assert world.events()[-1]["changed"] == ["AuthorizationPolicy shop/deny"]
    (world.directory / "a.yaml").unlink()
    await until(lambda: not world.policy.value.documents and len(world.events()) == 3)
    event = world.events()[-1]
    assert (event["by"], event["removed"]) == ("removal of all files", ["AuthorizationPolicy shop/deny"])


async def test_invalid_file_leaves_the_last_good_set(world: World, nursery: trio.Nursery) -> None:
    world.write("a.yaml", DENY)
    world.keeper.start()
    nursery.start_soon(world.keeper.run)
    world.write("b.yaml", "kind: Nonsense\n")
    await until(lambda: bool(world.keeper.error))
    assert world.verdict() == "policy_denied"
    assert "b.yaml:1:1" in world.keeper.error
    assert (world.metric("interceptor_policy_documents"), world.metric("interceptor_policies_refused")) == (
        1,
        1,
    )
    assert world.events()[-1]["event"] == "policy_refused"
    (world.directory / "b.yaml").unlink()
    await until(lambda: not world.keeper.error)
    assert world.verdict() == "policy_denied"
    assert world.metric("interceptor_policies_refused") == 0


async def test_file_that_is_being_written_is_not_read_before_it_is_whole(
    world: World, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_keeper, "SETTLE_SECONDS", 1.0)  # a busy machine may hold the writer up
    world.write("a.yaml", DENY)
    world.keeper.start()
    nursery.start_soon(world.keeper.run)
    for comment in "abc":
        with (world.directory / "a.yaml").open("w") as file:  # empty for a moment, and valid
            for part in (DENY[:10], DENY[10:], f"# {comment}"):
                await trio.sleep(0.03)
                assert world.verdict() == "policy_denied"
                file.write(part)
                file.flush()
    world.write("b.yaml", "[")  # from here on what was written before is known to have been read
    await until(lambda: bool(world.keeper.error))
    assert [event["event"] for event in world.events()] == ["policy_refused"]
    assert world.verdict() == "policy_denied"


async def test_files_that_change_all_the_time_are_looked_at_all_the_same(
    world: World, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_keeper, "SETTLE_SECONDS", 0.01)
    world.keeper.start()
    nursery.start_soon(world.keeper.run)
    world.write("a.yaml", DENY)
    with trio.fail_after(10):
        while world.verdict() != "policy_denied":
            world.write("b.yaml", f"# {trio.current_time()}\n")
            await trio.sleep(0.005)


async def test_directory_that_vanishes_leaves_the_last_good_set(world: World, nursery: trio.Nursery) -> None:
    world.write("a.yaml", DENY)
    world.keeper.start()
    nursery.start_soon(world.keeper.run)
    shutil.rmtree(world.directory)
    await until(lambda: bool(world.keeper.error))
    assert "is gone with the 1 documents in it" in world.keeper.error
    assert world.verdict() == "policy_denied"
    world.directory.mkdir()
    await until(lambda: not world.policy.value.documents)
    assert (world.verdict(), world.keeper.error) == ("mutual_tls", "")


async def test_invalid_set_at_the_start_denies_everything_until_it_is_repaired(
    world: World, nursery: trio.Nursery
) -> None:
    world.write("a.yaml", "[")
    world.keeper.start()
    assert world.verdict() == "policy_pending"
    nursery.start_soon(world.keeper.run)
    world.write("a.yaml", authorization("a", rules="[{}]"))
    await until(lambda: world.verdict() == "mutual_tls" and not world.keeper.error)


@pytest.mark.parametrize("marker", [None, "nonsense", "[]"])
def test_directory_that_vanished_between_two_starts_denies_everything(
    world: World, marker: str | None
) -> None:
    world.write("a.yaml", authorization("a", rules="[{}]"))
    world.keeper.start()
    assert world.verdict() == "mutual_tls"
    shutil.rmtree(world.directory)
    if marker is not None:
        (world.state / policy_keeper.MARKER).write_text(marker)
    world.restart()
    world.keeper.start()
    assert world.verdict() == "policy_pending"


def test_change_while_no_agent_runs_is_noted_by_the_next_one(world: World) -> None:
    world.write("a.yaml", DENY + authorization("same", rules="[{}]"))
    world.keeper.start()
    assert world.events() == []  # nothing was in force before
    world.restart()
    world.keeper.start()
    assert world.events() == []
    world.write("a.yaml", authorization("same", rules="[{}]"))
    world.write("b.yaml", exception("everybody", "INBOUND", cidrs="[0.0.0.0/0]"))
    world.restart()
    world.keeper.start()
    (event,) = world.events()
    assert (event["event"], event["by"]) == ("policy_changed", "files of uid 0, while no agent ran")
    assert (event["added"], event["removed"], event["changed"]) == (
        ["LegacyException shop/everybody"],
        ["AuthorizationPolicy shop/deny"],
        [],
    )
    assert "+  cidrs: [0.0.0.0/0]" in event["diff"]


def test_diff_that_is_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_keeper, "MAX_DIFF_LINES", 10)
    after = {f"d{number}": authorization(f"d{number}") for number in range(5)}
    changes = {"added": list(after), "removed": [], "changed": []}
    *lines, last = policy_keeper.diff_between({}, after, changes)
    assert len(lines) == 10
    assert last == "and 8 more lines of this document, and 3 more documents"
    assert policy_keeper.diff_between(after, after, {"changed": ["d1"]}) == []


async def test_what_cannot_be_looked_at_is_used_as_soon_as_it_is_repaired(
    world: World, nursery: trio.Nursery
) -> None:
    world.write("a.yaml", DENY)
    world.keeper.start()
    nursery.start_soon(world.keeper.run)
    (world.directory / "b.yaml").symlink_to("b.yaml")
    await until(lambda: "b.yaml: cannot be read: Too many levels" in world.keeper.error)
    (world.directory / "b.yaml").unlink()
    await until(lambda: not world.keeper.error)
    assert world.keeper.not_read == ()
    (world.directory / "c.json").touch()
    await until(lambda: len(world.keeper.not_read) == 1)
    assert world.keeper.not_read[0].endswith("c.json is not read, its name does not end with .yaml or .yml")


async def test_applied_files_are_written_and_in_force(world: World) -> None:
    world.keeper.start()
    assert await world.keeper.apply({"a.yaml": DENY}, "uid 7") == 0
    assert world.verdict() == "policy_denied"
    assert (world.directory / "a.yaml").read_text() == DENY
    assert world.events()[-1]["by"] == "uid 7"


async def test_applied_files_that_cannot_be_used_change_nothing(world: World) -> None:
    world.write("a.yaml", DENY)
    world.keeper.start()
    with pytest.raises(PolicyError):
        await world.keeper.apply({"a.yaml": "["}, "uid 7")
    assert (world.directory / "a.yaml").read_text() == DENY
    assert world.verdict() == "policy_denied"


async def test_candidate_is_not_put_in_force(world: World) -> None:
    world.keeper.start()
    candidate = await world.keeper.candidate({"a.yaml": DENY})
    assert word(candidate.decide_inbound(to(DB, WEB))) == "policy_denied"
    assert world.verdict() == "mutual_tls"


async def test_applied_into_what_is_no_directory_is_an_error(world: World) -> None:
    world.keeper.start()
    world.directory.touch()
    with pytest.raises(PolicyError):
        await world.keeper.apply({"a.yaml": DENY}, "uid 7")


async def test_set_that_becomes_usable_without_a_change_of_a_file_is_used(
    world: World, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_keeper, "RETRY_SECONDS", 0.05)
    world.write("a.yaml", authorization("a", rules="[{}]"))
    world.directory.chmod(0o777)
    world.keeper.start()
    assert world.verdict() == "policy_pending"
    nursery.start_soon(world.keeper.run)
    world.directory.chmod(0o755)
    await until(lambda: world.verdict() == "mutual_tls")


async def test_right_that_is_given_back_is_noticed(world: World, nursery: trio.Nursery) -> None:
    world.write("a.yaml", DENY)
    world.keeper.start()
    nursery.start_soon(world.keeper.run)
    (world.directory / "a.yaml").chmod(0o666)
    await until(lambda: "everybody may change it" in world.keeper.error)
    (world.directory / "a.yaml").chmod(0o644)
    await until(lambda: not world.keeper.error)
    assert world.verdict() == "policy_denied"


def test_fault_of_ours_at_the_start_denies_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write("a.yaml", DENY)
    monkeypatch.setattr("interceptor.agent.parsing.parse_part", lambda *_: 1 / 0)
    world.keeper.start()
    assert world.verdict() == "policy_pending"


async def test_directory_that_vanished_is_not_made_anew_by_applying(world: World) -> None:
    world.write("a.yaml", DENY)
    world.keeper.start()
    shutil.rmtree(world.directory)
    with pytest.raises(PolicyError, match="is gone with the 1 documents"):
        await world.keeper.apply({"b.yaml": ""}, "uid 7")
    assert not world.directory.exists()


async def test_fault_of_ours_leaves_the_last_good_set_and_goes_on(
    world: World, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.write("a.yaml", DENY)
    world.keeper.start()
    with monkeypatch.context() as patch:
        patch.setattr("interceptor.agent.parsing.parse_part", lambda *_: 1 / 0)
        nursery.start_soon(world.keeper.run)
        world.write("a.yaml", DENY + "# changed\n")
        await until(lambda: bool(world.keeper.error))
    assert world.verdict() == "policy_denied"
    assert "ZeroDivisionError" in caplog.text
    world.write("a.yaml", "")
    await until(lambda: world.verdict() == "mutual_tls")


async def test_files_that_change_while_others_are_applied_are_refused_and_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.keeper.start()

    def write_and_break(directory: Path, texts: dict[str, str]) -> None:
        replace_files(directory, texts)
        world.write("other.yaml", "[")

    monkeypatch.setattr(policy_keeper, "replace_files", write_and_break)
    with pytest.raises(PolicyError):
        await world.keeper.apply({"a.yaml": DENY}, "uid 7")
    assert "other.yaml" in world.keeper.error
    assert world.verdict() == "mutual_tls"


async def test_end_of_an_exception_asks_again(
    world: World, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write("a.yaml", exception("old", "INBOUND", cidrs="[192.0.2.7]", expires="2027-01-31"))
    world.keeper.start()
    asked = trio.Event()

    async def redecide() -> int:
        asked.set()
        return 0

    monkeypatch.setattr(world.keeper, "redecide", redecide)
    nursery.start_soon(world.keeper.run)
    attempt = replace(to(DB, "192.0.2.7"), at=world.now.timestamp())
    assert isinstance(world.policy.value.decide_inbound(attempt), Permit)
    world.now += timedelta(days=30)
    with trio.fail_after(10):
        await asked.wait()


class Watched:
    """Notes what it is told, and what was in force then; `error` is why the kernel takes nothing."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.told: list[tuple[str, int, int]] = []
        self.error = ""

    def widen(self, policies: PolicySet) -> None:
        if self.error:
            raise PolicyError(self.error)
        self.told.append(("widen", len(policies.documents), len(self._world.policy.value.documents)))

    async def settle(self) -> int:
        self.told.append(("settle", 0, len(self._world.policy.value.documents)))
        return 3


async def test_what_a_set_must_be_asked_about_is_captured_before_it_is_in_force(world: World) -> None:
    watched = Watched(world)
    world.keeper._capturing = lambda: watched
    world.keeper.start()
    assert await world.keeper.apply({"a.yaml": DENY}, "me") == 3
    assert watched.told == [("widen", 1, 0), ("settle", 0, 1)]


async def test_set_of_which_not_everything_can_be_captured_does_not_come_into_force(world: World) -> None:
    watched = Watched(world)
    world.keeper._capturing = lambda: watched
    world.keeper.start()
    watched.error = "the kernel is full"
    with pytest.raises(PolicyError, match="the kernel is full"):
        await world.keeper.apply({"a.yaml": DENY}, "me")
    assert (world.verdict(), world.keeper.error) == ("mutual_tls", "the kernel is full")
