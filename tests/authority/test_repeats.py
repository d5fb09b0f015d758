"""What happens again and again is said once, and counted."""

from __future__ import annotations

from interceptor.authority.repeats import Repeats


def test_repeat_is_counted_and_said_again_after_its_time() -> None:
    repeats = Repeats(60)
    said = [repeats.again("a", now) for now in (0, 1, 59, 60, 61, 200)]
    assert said == [0, None, None, 2, None, 1]


def test_repeats_of_one_thing_hide_no_other() -> None:
    repeats = Repeats(60)
    assert [repeats.again(what, 0) for what in ("a", "b", "a", "b")] == [0, 0, None, None]


def test_what_is_longest_ago_is_forgotten_when_there_are_too_many() -> None:
    repeats = Repeats(60, limit=2)
    assert [repeats.again(what, 0) for what in "abc"] == [0, 0, 0]
    assert repeats.again("c", 1) is None
    assert repeats.again("a", 1) == 0
