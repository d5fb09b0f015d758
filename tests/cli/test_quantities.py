"""Bytes and durations as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from interceptor.cli.quantities import in_bytes, in_milliseconds, in_seconds, seconds_until


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_550_000, "1.6 MB"),
        (999_960, "1.0 MB"),
        (10**18, "1000.0 PB"),
    ],
)
def test_bytes_have_decimal_units(count: int, text: str) -> None:
    assert in_bytes(count) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.44, "0.4 ms"), (52.4, "52 ms"), (3100, "3.1 s"), (185_000, "3m 5s")],
)
def test_short_durations_have_a_fitting_unit(milliseconds: float, text: str) -> None:
    assert in_milliseconds(milliseconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (60, "1m 0s"), (86_399, "23h 59m"), (1_051_200, "12d 4h"), (-90, "-1m 30s")],
)
def test_long_durations_have_two_units(seconds: float, text: str) -> None:
    assert in_seconds(seconds) == text


def test_seconds_until_an_instant() -> None:
    assert seconds_until("2030-01-01T00:01:00+00:00", datetime(2030, 1, 1, tzinfo=UTC)) == 60
