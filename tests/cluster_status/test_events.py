"""Events: each once, repetitions counted, and too many at once told in one."""

from interceptor.cluster_status.events import (
    COUNT_SECONDS,
    MOST_REMEMBERED,
    MOST_WAITING,
    SERIES_SECONDS,
    TOGETHER_SECONDS,
    EventLog,
    Happening,
    NewEvent,
    Repetition,
    Subject,
)
from interceptor.cluster_status.token_bucket import TokenBucket

NODE = Subject("v1", "Node", "", "node-1", "node-1")


def failing(number: int = 1, reason: str = "Degraded") -> Happening:
    return Happening(Subject("v1", "Pod", "shop", f"web-{number}", f"u{number}"), True, reason, "Enrol")


def log(burst: int = 1000, per_second: float = 1000.0) -> EventLog:
    return EventLog(TokenBucket(burst, per_second), NODE)


def test_what_happens_is_told_once() -> None:
    events = log()
    events.happened(failing(), "no certificate", 0)
    events.happened(failing(2), "no certificate", 0)
    assert list(events.due(0)) == [
        NewEvent(failing(), "no certificate", 0),
        NewEvent(failing(2), "no certificate", 1),
    ]
    assert list(events.due(1)) == []


def test_what_happens_again_is_counted_once_a_minute() -> None:
    events = log()
    events.happened(failing(), "no certificate", 0)
    list(events.due(0))
    told = []
    for now in range(1, 300):
        events.happened(failing(), "no certificate", now)
        told += [(now, each) for each in events.due(now)]
    assert [now for now, _ in told] == [60, 120, 180, 240]
    assert told[0][1] == Repetition(failing(), 61, 0)
    assert list(events.due(300 + COUNT_SECONDS)) == [Repetition(failing(), 300, 0)]
    assert list(events.due(301 + 2 * COUNT_SECONDS)) == []  # nothing new to count


def test_what_happens_after_a_long_time_is_another_event() -> None:
    events = log()
    events.happened(failing(), "a", 0)
    list(events.due(0))
    events.happened(failing(), "b", SERIES_SECONDS)
    assert list(events.due(SERIES_SECONDS)) == [NewEvent(failing(), "b", 1)]


def test_repetition_before_it_was_told_is_counted_afterwards() -> None:
    events = log(burst=1, per_second=0.0)
    events.happened(failing(1), "a", 0)
    events.happened(failing(2), "a", 0)
    events.happened(failing(2), "a", 1)
    assert len(list(events.due(1))) == 1
    assert list(events.due(500)) == []  # the bucket is empty: neither told nor counted
    events = log(burst=2, per_second=0.0)
    for now in (0, 1):
        events.happened(failing(1), "a", now)
        events.happened(failing(2), "a", now)
    assert len(list(events.due(2))) == 2
    assert list(events.due(100)) == []


def test_ten_thousand_that_fail_at_once_are_told_in_few() -> None:
    events = log(burst=25, per_second=0.5)
    for number in range(10_000):
        events.happened(failing(number), "no certificate", 0)
    told = list(events.due(0))
    assert len(told) == 25
    for now in range(1, 600):
        told += events.due(now)
    assert len(told) == MOST_WAITING + 1
    (together,) = [each for each in told if each.happening.subject == NODE]
    assert isinstance(together, NewEvent)
    assert together.note == "9900 at once: shop/web-100, shop/web-101, shop/web-102 and 9897 more"
    assert (together.happening.is_warning, together.happening.reason) == (True, "Degraded")
    assert len({each.number for each in told}) == len(told)


def test_those_told_together_are_told_each_half_minute_at_most() -> None:
    events = log()
    for number in range(MOST_WAITING + 1):
        events.happened(failing(number), "a", 0)
    events.happened(failing(500, "NotEnrolled"), "a", 0)
    told = list(events.due(0))
    assert [each.note for each in told[MOST_WAITING:] if isinstance(each, NewEvent)] == [
        "1 at once: shop/web-100",
        "1 at once: shop/web-500",
    ]
    for number in range(1000, 1000 + MOST_WAITING + 1):
        events.happened(failing(number), "a", 1)
    assert len(list(events.due(1))) == MOST_WAITING
    assert list(events.due(TOGETHER_SECONDS - 1)) == []
    assert len(list(events.due(TOGETHER_SECONDS))) == 1


def test_together_waits_for_the_bucket_too() -> None:
    events = log(burst=MOST_WAITING, per_second=0.0)
    for number in range(MOST_WAITING + 1):
        events.happened(failing(number), "a", 0)
    assert len(list(events.due(0))) == MOST_WAITING
    assert list(events.due(100)) == []


def test_what_could_not_be_told_waits_unless_too_many_do() -> None:
    events = log()
    events.happened(failing(), "a", 0)
    (told,) = events.due(0)
    events.put_back(told)
    assert list(events.due(1)) == [told]
    events.put_back(told)
    events.put_back(Repetition(failing(), 2, 0))
    events.put_back(NewEvent(failing(9), "unknown", 5))
    assert list(events.due(2)) == [told]
    for number in range(100, 100 + MOST_WAITING):
        events.happened(failing(number), "a", 3)
    events.put_back(told)
    assert told not in list(events.due(3))


def test_memory_is_bounded_whatever_happens() -> None:
    events = log()
    for number in range(3 * MOST_REMEMBERED):
        events.happened(failing(number), "a", number)
        list(events.due(number))
    assert len(events._series) == MOST_REMEMBERED
    assert not events._waiting
