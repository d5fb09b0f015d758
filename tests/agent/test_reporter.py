"""Reports: after each change, now and then, and again when one was not taken."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from interceptor.agent.reporter import EVERY_SECONDS, GATHER_SECONDS, Reporter
from interceptor.authority.reports import NodeReport
from interceptor.errors import AuthorityUnavailable

if TYPE_CHECKING:
    from trio.testing import MockClock

HASH = f"sha256:{'0' * 64}"


class Desk:
    """Takes reports, or does not."""

    def __init__(self) -> None:
        self.away: str | None = None
        self.takes = 0.0
        self.tried: list[float] = []
        self.taken: list[float] = []
        self.confirmed = 0
        self.reporter = Reporter(self.make, self.send, self.sent)

    def sent(self) -> None:
        self.confirmed += 1

    def make(self) -> NodeReport:
        return NodeReport(HASH, HASH, (), (), datetime(2030, 1, 1, tzinfo=UTC))

    async def send(self, report: NodeReport) -> None:
        self.tried.append(trio.current_time())
        await trio.sleep(self.takes)
        if self.away:
            raise AuthorityUnavailable(self.away)
        self.taken.append(trio.current_time())


@pytest.fixture
async def desk(nursery: trio.Nursery) -> Desk:
    desk = Desk()
    nursery.start_soon(desk.reporter.run)
    await trio.testing.wait_all_tasks_blocked()
    return desk


async def test_report_is_sent_at_once_and_now_and_then(desk: Desk, autojump_clock: MockClock) -> None:
    assert desk.taken == [0]
    await trio.sleep(10 * EVERY_SECONDS)
    assert 9 <= len(desk.taken) <= 11
    assert desk.confirmed == len(desk.taken)


async def test_changes_that_come_together_are_one_report(desk: Desk, autojump_clock: MockClock) -> None:
    await trio.sleep(5)
    for _ in range(20):
        desk.reporter.changed()
        await trio.sleep(GATHER_SECONDS / 100)
    await trio.sleep(GATHER_SECONDS)
    assert desk.taken == [0, pytest.approx(5 + GATHER_SECONDS)]


async def test_change_while_a_report_is_on_its_way_is_not_lost(desk: Desk, autojump_clock: MockClock) -> None:
    desk.reporter.changed()
    await trio.sleep(GATHER_SECONDS + 0.01)
    desk.reporter.changed()
    await trio.sleep(2 * GATHER_SECONDS)
    assert len(desk.taken) == 3


async def test_report_that_was_not_taken_is_sent_again(desk: Desk, autojump_clock: MockClock) -> None:
    desk.away = "nobody listens"
    await trio.sleep(600)
    assert desk.reporter.last_error == "nobody listens"
    assert 15 < len(desk.tried) < 40
    assert desk.confirmed == 1
    desk.away = None
    await trio.sleep(EVERY_SECONDS * 1.3)
    assert desk.reporter.last_error is None
    assert desk.taken[1] <= 600 + EVERY_SECONDS * 1.3


async def test_last_report_is_sent_and_waits_for_nobody(desk: Desk, autojump_clock: MockClock) -> None:
    await trio.sleep(5)
    await desk.reporter.send_last(2)
    assert desk.taken == [0, 5]
    desk.away = "nobody listens"
    await desk.reporter.send_last(2)
    desk.takes = 100.0
    began = trio.current_time()
    await desk.reporter.send_last(2)
    assert trio.current_time() == began + 2
