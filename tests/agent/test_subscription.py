"""What the authority keeps is followed: taken over once, kept while it is away, current again soon after."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from interceptor.agent.subscription import LONGEST_PAUSE, Subscription
from interceptor.errors import AuthorityUnavailable, InvalidInput

if TYPE_CHECKING:
    from trio.testing import MockClock


class Kept:
    """A value of the authority, and who follows it; `away` is why nothing is answered."""

    def __init__(self) -> None:
        self.value = "one"
        self.away: str | None = None
        self.asked: list[float] = []
        self.adopted: list[str] = []
        self.returns = 0
        self._changed = trio.Event()
        self.subscription: Subscription[str, str] = Subscription(
            "the value", self.fetch, lambda value: value, self.adopt, known="one", on_return=self.back
        )

    def back(self) -> None:
        self.returns += 1

    def set(self, value: str | None = None, away: str | None = None) -> None:
        self.value, self.away = value or self.value, away
        self._changed.set()
        self._changed = trio.Event()

    async def fetch(self, known: str | None) -> str:
        self.asked.append(trio.current_time())
        while self.value == known and self.away is None:
            await self._changed.wait()
        if self.away is not None:
            raise AuthorityUnavailable(self.away)
        return self.value

    async def adopt(self, value: str) -> None:
        if value == "unusable":
            raise InvalidInput("it cannot be used")
        self.adopted.append(value)


@pytest.fixture
async def kept(nursery: trio.Nursery) -> Kept:
    kept = Kept()
    nursery.start_soon(kept.subscription.run)
    await trio.testing.wait_all_tasks_blocked()
    return kept


async def test_change_is_adopted_at_once_and_once(kept: Kept, autojump_clock: MockClock) -> None:
    assert kept.adopted == []
    await trio.sleep(100)
    kept.set("two")
    await trio.testing.wait_all_tasks_blocked()
    assert kept.adopted == ["two"]
    assert kept.subscription.heard_at == 100
    assert len(kept.asked) == 2
    assert kept.returns == 0


async def test_outage_keeps_what_is_known_and_is_over_within_seconds(
    kept: Kept, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kept.set(away="nobody listens")
    await trio.sleep(600)
    assert kept.adopted == []
    assert kept.subscription.last_error == "nobody listens"
    assert 100 < len(kept.asked) < 200  # neither like mad nor hardly ever
    kept.set("two")
    await trio.sleep(LONGEST_PAUSE.total_seconds() + 0.1)
    assert kept.adopted == ["two"]
    assert kept.subscription.last_error is None
    assert kept.returns == 1
    assert [record.message for record in caplog.records] == [
        "the value stays as it is: nobody listens",
        "the value: the authority is back",
    ]


async def test_outage_is_over_although_there_is_no_news(kept: Kept, autojump_clock: MockClock) -> None:
    """Else it would be shown, and the value grow older, until the next change: for months, perhaps."""
    kept.set(away="nobody listens")
    await trio.sleep(600)
    kept.set(away=None)
    await trio.sleep(LONGEST_PAUSE.total_seconds() + 0.1)
    assert kept.subscription.last_error is None
    assert kept.subscription.heard_at is not None
    assert kept.subscription.heard_at > 600
    assert kept.returns == 1
    assert kept.adopted == []
    asked = len(kept.asked)
    await trio.sleep(600)
    assert len(kept.asked) == asked  # it waits for news again


async def test_answer_that_cannot_be_adopted_is_asked_for_again(
    kept: Kept, autojump_clock: MockClock
) -> None:
    kept.set("unusable")
    await trio.sleep(60)
    assert kept.subscription.last_error == "it cannot be used"
    assert len(kept.asked) < 30
    kept.set("three")
    await trio.sleep(LONGEST_PAUSE.total_seconds() + 0.1)
    assert kept.adopted == ["three"]


async def test_same_answer_again_is_a_sign_of_life_and_nothing_else(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    kept = Kept()

    async def fetch(known: str | None) -> str:
        await trio.sleep(50)
        return kept.value

    subscription = Subscription("it", fetch, lambda value: value, kept.adopt, known="one")
    nursery.start_soon(subscription.run)
    await trio.sleep(120)
    assert subscription.heard_at == 100
    assert kept.adopted == []


async def test_other_answers_confirm_it_unless_it_has_failed_itself(
    kept: Kept, autojump_clock: MockClock
) -> None:
    await trio.sleep(10)
    kept.subscription.confirm()
    assert kept.subscription.heard_at == 10
    kept.set(away="nobody listens")
    await trio.sleep(10)
    kept.subscription.confirm()
    assert kept.subscription.heard_at == 10
