"""An outage in the log: a line for each cause with the count, and one when it is over, however many workloads wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from interceptor.credentials.outage_log import AGAIN_SECONDS, OutageLog

if TYPE_CHECKING:
    from collections.abc import Callable

AWAY = "the authority at 192.0.2.1:15012 cannot be reached"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was said since the last look."""
    caplog.set_level("INFO")

    def look() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return look


def test_outage_of_a_thousand_workloads_is_two_lines_and_one_when_it_is_over(
    said: Callable[[], list[str]],
) -> None:
    outages, names = OutageLog(), [f"default/w{number}" for number in range(1000)]
    for attempt in range(5):
        for name in names:
            outages.failed(name, AWAY, attempt * 10.0)
    assert said() == [
        f"no certificate for default/w0: {AWAY}",
        f"no certificates for 1000, 1001 attempts failed in 10 s: {AWAY}",
    ]
    for name in names:
        outages.succeeded(name, 60.0)
    assert said() == [
        f"certificates are issued again after 60 s: 1000 had waited, 5000 attempts had failed: {AWAY}"
    ]
    outages.succeeded("default/w0", 61.0)
    assert said() == []


def test_outage_that_goes_on_is_told_again_now_and_then(said: Callable[[], list[str]]) -> None:
    outages = OutageLog()
    for second in range(0, int(2.5 * AGAIN_SECONDS), 50):
        outages.failed("default/web", AWAY, float(second))
    first, *later = said()
    assert first == f"no certificate for default/web: {AWAY}"
    assert later == [
        f"no certificates for 1, 13 attempts failed in 600 s: {AWAY}",
        f"no certificates for 1, 25 attempts failed in 1200 s: {AWAY}",
    ]


def test_each_cause_has_lines_of_its_own(said: Callable[[], list[str]]) -> None:
    outages = OutageLog()
    outages.failed("default/web", AWAY, 0.0)
    outages.failed("default/db", "identity_not_on_node: db", 0.0)
    outages.failed("default/web", "clock_skew: an hour", 1.0)  # the first cause is gone, nobody waits for it
    outages.succeeded("default/web", 2.0)
    outages.failed("default/web", AWAY, 3.0)
    assert said() == [
        f"no certificate for default/web: {AWAY}",
        "no certificate for default/db: identity_not_on_node: db",
        "no certificate for default/web: clock_skew: an hour",
        "certificates are issued again after 1 s: 1 had waited, 1 attempts had failed: clock_skew: an hour",
        f"no certificate for default/web: {AWAY}",
    ]


def test_workload_that_is_withdrawn_keeps_no_outage_open(said: Callable[[], list[str]]) -> None:
    outages = OutageLog()
    outages.failed("default/web", AWAY, 0.0)
    outages.failed("default/db", AWAY, 0.0)
    outages.forget("default/web")
    outages.forget("default/web")
    outages.succeeded("default/db", 1.0)
    assert said()[-1].startswith("certificates are issued again after 1 s: 2 had waited")
