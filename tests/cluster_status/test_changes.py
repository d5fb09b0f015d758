"""Conditions are written when they differ from what the API shows, not before they have settled, and seldom enough."""

from itertools import pairwise

import pytest

from interceptor.cluster.condition import Condition, Told
from interceptor.cluster_status.changes import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    SETTLE_SECONDS,
    STEADY_SECONDS,
    Changes,
    Wanted,
)
from interceptor.cluster_status.token_bucket import TokenBucket

GOOD = Condition(True, "Enrolled", "in the mesh")
BAD = Condition(False, "NoCertificate", "none")
WORSE = Condition(False, "NoCertificate", "none: no answer")


class Scene:
    """One or more pods; the API shows what is written to it, unless it is told otherwise."""

    def __init__(self, burst: int = 100, per_second: float = 100.0) -> None:
        self.changes: Changes[str] = Changes(TokenBucket(burst, per_second))
        self.told: dict[str, Told] = {}

    def want(self, now: float, **wanted: Condition) -> None:
        self.changes.want({key: Wanted(each, self.told.get(key)) for key, each in wanted.items()}, now)

    def write(self, now: float) -> list[str]:
        """Take and write what is due."""
        due = list(self.changes.due(now))
        self.told |= {key: Told(condition) for key, condition in due}
        return [key for key, _ in due]

    def news(self, now: float) -> list[tuple[str, str, bool]]:
        return [(key, condition.reason, was_well) for key, condition, was_well in self.changes.news(now)]


def test_what_is_well_is_written_at_once_and_once() -> None:
    scene = Scene()
    scene.want(0, web=GOOD)
    assert scene.write(0) == ["web"]
    for now in range(1, 300):
        scene.want(now, web=GOOD)
        assert scene.write(now) == []


def test_what_is_not_well_is_written_when_it_has_lasted() -> None:
    scene = Scene()
    scene.want(0, web=BAD)
    assert (scene.write(0), scene.news(0)) == ([], [])
    scene.want(1, web=WORSE)  # another message is no other state
    assert scene.write(SETTLE_SECONDS - 0.1) == []
    assert scene.write(SETTLE_SECONDS) == ["web"]
    assert scene.told["web"].condition == WORSE
    scene.want(SETTLE_SECONDS + 1, web=GOOD)
    assert scene.write(SETTLE_SECONDS + 1) == ["web"]


def test_what_passes_in_a_moment_is_not_written_at_all() -> None:
    scene = Scene()
    for now in range(100):
        scene.want(now, web=(GOOD, BAD)[now % 2])
        assert scene.write(now) == (["web"] if now == 0 else [])


def test_what_an_agent_before_left_is_corrected() -> None:
    scene = Scene()
    scene.told = {"stale": Told(BAD), "right": Told(GOOD)}
    scene.want(0, stale=GOOD, right=GOOD)
    assert scene.write(0) == ["stale"]
    assert scene.news(0) == [("stale", "Enrolled", False)]


def test_somebody_who_writes_over_it_is_answered_ever_more_seldom() -> None:
    scene = Scene()
    written = []
    for now in range(4000):
        scene.told = {}
        scene.want(now, web=GOOD)
        written += [now] * len(scene.write(now))
    pauses = [after - before for before, after in pairwise(written)]
    assert pauses == [FIRST_PAUSE_SECONDS * 2**number for number in range(6)] + [LONGEST_PAUSE_SECONDS] * 5
    # When he has left it alone for a while, it is as in the beginning.
    for now in range(4000, 4000 + 700):
        scene.want(now, web=GOOD)
        if scene.write(now):
            break
    assert now < 4000 + LONGEST_PAUSE_SECONDS
    steady = now + STEADY_SECONDS + 2
    for each in (now + 1, steady):
        scene.want(each, web=GOOD)
        assert scene.write(each) == []
    scene.told = {}
    scene.want(steady + 1, web=GOOD)
    assert scene.write(steady + 1) == ["web"]


def test_what_could_not_be_written_is_due_again() -> None:
    scene = Scene()
    scene.want(0, web=GOOD)
    assert [key for key, _ in scene.changes.due(0)] == ["web"]
    scene.changes.put_back("web")
    scene.changes.put_back("gone")
    scene.want(1, web=GOOD)
    assert scene.write(1) == ["web"]


def test_many_at_once_are_written_as_the_bucket_lets_them_and_the_oldest_first() -> None:
    scene = Scene(burst=10, per_second=2.0)
    scene.want(0, first=BAD)
    pods = {f"web-{number}": GOOD for number in range(100)}
    scene.want(1, first=BAD, **pods)
    assert scene.write(6)[0] == "first"
    total = 10
    for now in range(7, 60):
        scene.want(now, first=BAD, **pods)
        total += len(scene.write(now))
    assert total == 101
    assert scene.told.keys() == {"first", *pods}


def test_what_is_not_wanted_any_more_is_forgotten() -> None:
    scene = Scene()
    scene.want(0, web=GOOD)
    scene.want(1)
    assert (scene.write(1), scene.news(1), scene.changes.since("web")) == ([], [], None)


def test_news_are_told_once_and_say_whether_it_was_well_before() -> None:
    scene = Scene()
    scene.want(0, web=GOOD)
    assert scene.news(0) == [("web", "Enrolled", False)]
    assert scene.news(1) == []
    scene.want(2, web=BAD)
    assert scene.news(2) == []
    assert scene.news(2 + SETTLE_SECONDS) == [("web", "NoCertificate", True)]
    scene.want(8, web=WORSE)
    assert scene.news(8) == []  # the same, in other words
    assert scene.changes.since("web") == 2


def test_what_was_said_of_another_generation_is_said_again() -> None:
    changes: Changes[str] = Changes(TokenBucket(5, 1.0))
    for generation, told, expected in ((1, 1, False), (2, 1, True), (2, None, True)):
        changes.want({}, 0)
        changes.want({"p": Wanted(GOOD, Told(GOOD, "", told), generation)}, 0)
        assert bool(list(changes.due(0))) is expected


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(3, 0.5)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(101.9)
    assert bucket.take(102.0)
    assert not bucket.take(50.0)  # a clock that goes back gives nothing
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("count", [10_000])
def test_ten_thousand_pods_that_fail_at_once_are_not_written_ten_thousand_times_at_once(count: int) -> None:
    scene = Scene(burst=25, per_second=5.0)
    pods = {f"web-{number}": BAD for number in range(count)}
    scene.want(0, **pods)
    written = 0
    for now in range(10, 70, 10):
        written += len(scene.write(now))
    assert written <= 25 + 60 * 5
