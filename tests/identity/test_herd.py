"""A thousand nodes that were started at once must not come back at once."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interceptor.identity.rotation import EARLIEST_RENEWAL, LATEST_RENEWAL, backoff, renewal_time

START = datetime(2026, 1, 1, tzinfo=UTC)
NODES = 1000
seeds = st.integers(0, 2**32)


def renewals(life, rounds, seed):
    """When each node renews, in each round; a new certificate is valid for `life` from its renewal."""
    chance = random.Random(seed)
    times = [START] * NODES
    for _ in range(rounds):
        times = [
            renewal_time(at, at + life, chance.uniform(EARLIEST_RENEWAL, LATEST_RENEWAL)) for at in times
        ]
        yield times


@settings(max_examples=10, deadline=None)
@given(seed=seeds, life=st.timedeltas(timedelta(minutes=1), timedelta(hours=24)))
def test_herd_spreads_its_renewals_from_the_first_round_on(seed, life):
    for number, times in enumerate(renewals(life, 5, seed), start=1):
        # A tenth of a life for each round; of a hundredth of that time, a hundredth of the nodes, and chance.
        window = life * (LATEST_RENEWAL - EARLIEST_RENEWAL) / 100
        crowd = Counter((at - START) // window for at in times)
        assert max(crowd.values()) < 40
        assert len(crowd) > 80
        earliest, latest = min(times) - START, max(times) - START
        assert life * EARLIEST_RENEWAL * number <= earliest + timedelta.resolution * number
        assert latest <= life * LATEST_RENEWAL * number + timedelta.resolution * number


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_herd_that_failed_together_does_not_come_back_together(seed):
    chance = random.Random(seed)
    times = [timedelta(0)] * NODES
    for attempt in range(10):
        times = [at + backoff(attempt, chance.random()) for at in times]
        spread = max(times) - min(times)
        crowd = Counter((at - min(times)) // (spread / 50) for at in times)
        assert max(crowd.values()) < 120
    assert max(times) - min(times) > timedelta(seconds=60)


@pytest.mark.parametrize("years", [1, 20])
def test_renewals_go_on_for_years_without_a_gap(years):
    chance = random.Random(years)
    life = timedelta(hours=24)
    now, count = START, 0
    while now < START + timedelta(days=365 * years):
        due = renewal_time(now, now + life, chance.uniform(EARLIEST_RENEWAL, LATEST_RENEWAL))
        assert now + life * EARLIEST_RENEWAL <= due <= now + life * LATEST_RENEWAL
        assert due < now + life  # the old one is valid still
        now, count = due, count + 1
    assert years * 365 / 0.6 <= count <= years * 365 / 0.5
