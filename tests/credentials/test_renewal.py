"""One certificate for ever: brought forward when somebody asks, and a thousand of them do not come together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from interceptor.credentials.outage_log import OutageLog
from interceptor.credentials.renewal import Renewal
from interceptor.credentials.signing_queue import PLACES, SigningQueue
from interceptor.errors import AuthorityError

if TYPE_CHECKING:
    from trio.testing import MockClock

BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
LIFE = timedelta(hours=24)


def now() -> datetime:
    return BEGIN + timedelta(seconds=trio.current_time())


@dataclass(frozen=True, slots=True)
class Certificate:
    issued_at: datetime
    not_after: datetime

    @property
    def not_before(self) -> datetime:
        return self.issued_at - timedelta(seconds=60)


class Subject:
    """Whoever keeps a certificate, with an authority that answers, fails, or takes its time."""

    def __init__(self, queue: SigningQueue | None = None, life: timedelta = LIFE) -> None:
        self.failing: str | None = None
        self.takes = 0.0
        self.life = life
        self.asked: list[float] = []
        self.used: list[float] = []
        self.renewal: Renewal[Certificate] = Renewal(
            "it", self.issue, queue or SigningQueue(), now, OutageLog()
        )

    async def issue(self) -> Certificate:
        self.asked.append(trio.current_time())
        if self.takes:
            await trio.sleep(self.takes)
        if self.failing:
            raise AuthorityError(self.failing)
        return Certificate(now(), now() + self.life)

    async def run(self, first: Certificate | None = None) -> None:
        await self.renewal.run(lambda _: self.used.append(trio.current_time()), lambda _: None, first=first)


async def test_certificate_that_is_there_already_is_used_and_renewed_in_its_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    subject = Subject()
    first = Certificate(BEGIN - LIFE / 4, BEGIN + LIFE * 3 / 4)
    nursery.start_soon(subject.run, first)
    await trio.sleep(LIFE.total_seconds() / 2)
    assert subject.used[0] == 0
    assert 0.25 * 86400 <= subject.used[1] <= 0.35 * 86400
    assert subject.renewal.renewals == 1


async def test_renewal_brought_forward_comes_within_the_spread(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    subjects = [Subject() for _ in range(50)]
    for subject in subjects:
        nursery.start_soon(subject.run)
    await trio.sleep(3600)
    for subject in subjects:
        subject.renewal.bring_forward(timedelta(seconds=60))
    await trio.sleep(61)
    times = [subject.used[1] for subject in subjects]
    assert all(3600 <= at <= 3660 for at in times)
    assert max(times) - min(times) > 20
    await trio.sleep(3600)
    assert {len(subject.used) for subject in subjects} == {2}


async def test_renewal_brought_forward_is_not_put_off(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    subject = Subject(life=timedelta(seconds=10))
    nursery.start_soon(subject.run)
    await trio.sleep(1)
    subject.renewal.bring_forward(timedelta(hours=24))
    await trio.sleep(6)
    assert len(subject.used) == 2


async def test_attempt_after_a_failure_is_brought_forward(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    subject = Subject()
    subject.failing = "the authority is away"
    nursery.start_soon(subject.run)
    await trio.sleep(1800)
    subject.failing = None
    subject.renewal.bring_forward(timedelta(seconds=2))
    await trio.sleep(2.1)
    assert len(subject.used) == 1
    assert subject.renewal.last_error is None


async def test_certificate_without_life_left_is_a_failure_and_not_asked_for_like_mad(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    subject = Subject(life=timedelta(0))
    nursery.start_soon(subject.run)
    await trio.sleep(600)
    assert subject.used == []
    assert len(subject.asked) < 20
    assert "expired at 2030-01-01" in str(subject.renewal.last_error)


async def test_workload_without_certificate_is_served_before_those_that_renew(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    queue = SigningQueue()
    old = [Subject(queue, life=timedelta(seconds=100)) for _ in range(100)]
    for subject in old:
        nursery.start_soon(subject.run)
    await trio.testing.wait_all_tasks_blocked()
    for subject in old:
        subject.takes = 1.0
        subject.renewal.bring_forward(timedelta(0))
    await trio.testing.wait_all_tasks_blocked()
    assert queue.waiting == 100 - PLACES
    new = Subject(queue)
    new.takes = 1.0
    nursery.start_soon(new.run)
    await trio.sleep(2.5)
    assert new.used == [pytest.approx(2.0)]
    assert sum(len(subject.used) == 1 for subject in old) > 50
    await trio.sleep(20)
    assert {len(subject.used) for subject in old} == {2}


async def test_certificate_that_expired_makes_its_owner_urgent(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """After an outage: first those who cannot work, then those who still can."""
    queue = SigningQueue(places=1)
    expired, valid = Subject(queue, timedelta(seconds=100)), Subject(queue, timedelta(hours=1))
    for subject in (valid, expired):
        nursery.start_soon(subject.run)
    await trio.sleep(10)
    for subject in (valid, expired):
        subject.failing = "the authority is away"
        subject.renewal.bring_forward(timedelta(0))
    await trio.sleep(200)
    async with queue.place(urgent=True):
        for subject in (valid, expired):
            subject.failing = None
            subject.takes = 1.0
            subject.renewal.bring_forward(timedelta(0))
            await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(3)
    assert expired.used[1] < valid.used[1]


async def test_thousand_that_started_together_spread_their_renewals(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    life = 600.0
    subjects = [Subject(life=timedelta(seconds=life)) for _ in range(1000)]
    for subject in subjects:
        nursery.start_soon(subject.run)
    await trio.sleep(3 * life)
    for subject in subjects:
        gaps = [later - earlier for earlier, later in pairwise(subject.used)]
        assert all(0.5 * life <= gap <= 0.6 * life + 0.01 for gap in gaps), gaps
    # The first renewals fall into one minute: were they even, 16.7 in each of its seconds.
    seconds = Counter(int(subject.used[1]) for subject in subjects)
    assert max(seconds.values()) < 45
    assert len(seconds) > 55


@pytest.mark.parametrize("life", [20.0, 600.0])
async def test_outage_of_a_third_of_a_life_is_outlived_whenever_it_begins(
    autojump_clock: MockClock, nursery: trio.Nursery, life: float
) -> None:
    """At the latest it begins with a renewal at 60 %: the rest must do for one more pause and the attempt."""
    subjects = [Subject(life=timedelta(seconds=life)) for _ in range(60)]
    for subject in subjects:
        nursery.start_soon(subject.run)
    for begins in (0.40, 0.51, 0.57, 0.60):
        started = trio.current_time()
        await trio.sleep(life * begins)
        for subject in subjects:
            subject.failing = "the authority is away"
        await trio.sleep(life / 3)
        for subject in subjects:
            subject.failing = None
        await trio.sleep(started + 1.2 * life - trio.current_time())
        for subject in subjects:
            gaps = [later - earlier for earlier, later in pairwise(subject.used)]
            assert all(gap < 0.995 * life for gap in gaps), (begins, gaps)
            subject.renewal.bring_forward(timedelta(0))
        await trio.testing.wait_all_tasks_blocked()
