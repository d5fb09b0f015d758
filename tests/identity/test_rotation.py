"""Rotation: never before half of a life, never after 60 %."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.identity.rotation import backoff, is_late, remaining_fraction, renewal_time

START = datetime(2026, 1, 1, tzinfo=UTC)
instants = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
lives = st.timedeltas(timedelta(seconds=1), timedelta(days=366))


@given(instants, lives, st.floats(0.5, 0.6))
def test_renewal_is_between_50_and_60_percent_of_the_life(issued_at, life, fraction):
    elapsed = renewal_time(issued_at, issued_at + life, fraction) - issued_at
    rounding = timedelta.resolution  # a datetime holds no half microseconds
    assert life / 2 - rounding <= elapsed <= life * 6 / 10 + rounding


@given(instants, st.timedeltas(timedelta(days=-1), timedelta(0)), st.floats(0.5, 0.6))
def test_renewal_without_life_left_is_due_at_once(issued_at, life, fraction):
    assert renewal_time(issued_at, issued_at + life, fraction) == issued_at


@pytest.mark.parametrize("fraction", [0.0, 0.49999, 0.60001, 1.0, float("nan")])
def test_renewal_with_a_fraction_out_of_range_is_an_error(fraction):
    with pytest.raises(ValueError, match=r"outside 0\.5 to 0\.6"):
        renewal_time(START, START + timedelta(hours=1), fraction)


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(0, 0.5), (1, 1), (2, 2), (8, 128), (9, 150), (10, 150), (10**9, 150)]
)
def test_backoff_doubles_up_to_its_limit(attempt, seconds):
    assert backoff(attempt, 0.5) == timedelta(seconds=seconds)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_stays_within_20_percent_of_its_nominal_value(attempt, jitter):
    nominal = backoff(attempt, 0.5)
    assert nominal * 0.8 <= backoff(attempt, jitter) <= nominal * 1.2


@pytest.mark.parametrize(("attempt", "jitter"), [(-1, 0.5), (0, 1.0), (0, -0.1), (0, float("nan"))])
def test_backoff_with_arguments_out_of_range_is_an_error(attempt, jitter):
    with pytest.raises(ValueError, match="is negative or jitter"):
        backoff(attempt, jitter)


@pytest.mark.parametrize(("hours", "fraction"), [(-1, 1.0), (0, 1.0), (6, 0.75), (24, 0.0), (30, 0.0)])
def test_remaining_fraction_falls_from_one_to_nothing(hours, fraction):
    not_after = START + timedelta(hours=24)
    assert remaining_fraction(START, not_after, START + timedelta(hours=hours)) == fraction


def test_remaining_fraction_of_no_life_is_nothing():
    assert remaining_fraction(START, START, START) == 0.0


@pytest.mark.parametrize(
    ("hours", "late"), [(0, False), (14.4, False), (18, False), (18.01, True), (30, True)]
)
def test_certificate_is_late_past_three_quarters_of_its_life(hours, late):
    assert is_late(START, START + timedelta(hours=24), START + timedelta(hours=hours)) is late
