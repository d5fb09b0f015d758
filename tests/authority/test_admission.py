"""Who may ask for what, when, and how often."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.authority.admission import AllowPattern, RateLimiter, ReplayWindow, allowed, check_clock
from interceptor.authority.refusal import Code, Refused
from interceptor.errors import InvalidInput
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
TD = TrustDomain("cluster.local")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("ns/shop/sa/web", ["shop/web"], ["shop/web2", "bank/web", "shop/we"]),
        ("ns/*/sa/web", ["shop/web", "bank/web"], ["shop/db"]),
        ("ns/shop/sa/*", ["shop/web", "shop/db"], ["shops/web"]),
        ("ns/*/sa/*", ["shop/web", "bank/db"], []),
        ("ns/shop/sa/web-*", ["shop/web-1", "shop/web-a.b"], ["shop/web", "bank/web-1"]),
    ],
)
def test_pattern_matches_what_it_says_and_nothing_else(pattern, matching, other):
    parsed = AllowPattern.parse(pattern)
    assert str(parsed) == pattern
    for text, expected in [*((text, True) for text in matching), *((text, False) for text in other)]:
        namespace, account = text.split("/")
        assert parsed.matches(SpiffeId(TD, namespace, account)) is expected
        assert (
            allowed([AllowPattern.parse("ns/x/sa/x"), parsed], SpiffeId(TD, namespace, account)) is expected
        )


def test_nothing_is_allowed_without_patterns():
    assert not allowed([], SpiffeId(TD, "shop", "web"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "ns/*",
        "ns/a*/sa/b",
        "ns/A/sa/b",
        "ns/a/sa/*b",
        "ns/a/sa/b**",
        "ns/a/sa/",
        "ns//sa/b",
        "ns/a/sa/b/c",
        "ns/a/sa/b\n",
        "spiffe://td/ns/a/sa/b",
        "ns/../sa/b",
    ],
)
def test_pattern_that_is_none_is_refused(text):
    with pytest.raises(InvalidInput) as caught:
        AllowPattern.parse(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("skew", "words"),
    [
        (timedelta(minutes=-5), "node-b's clock is 300 s behind the authority's"),
        (timedelta(minutes=5), "node-b's clock is 300 s ahead of the authority's"),
        (timedelta(days=365), "node-b's clock is 31536000 s ahead of the authority's"),
        (timedelta(days=-365), "node-b's clock is 31536000 s behind the authority's"),
    ],
)
def test_clock_that_is_off_is_refused_with_skew_and_direction(skew, words):
    with pytest.raises(Refused) as caught:
        check_clock("node-b", NOW + skew, NOW)
    assert caught.value.code is Code.CLOCK_SKEW
    assert words in str(caught.value)


@given(st.floats(-60, 60))
def test_clock_within_a_minute_is_right(seconds):
    check_clock("node-b", NOW + timedelta(seconds=seconds), NOW)


def test_request_seen_before_is_refused_as_long_as_its_time_would_do():
    window = ReplayWindow()
    at = NOW + timedelta(seconds=60)
    window.admit("a", "nonce", at, NOW)
    window.admit("b", "nonce", at, NOW)
    window.admit("a", "other", at, NOW)
    for seconds in (0, 60, 119, 120):
        with pytest.raises(Refused) as caught:
            window.admit("a", "nonce", at, NOW + timedelta(seconds=seconds))
        assert caught.value.code is Code.REQUEST_REPLAYED
    with pytest.raises(Refused) as caught:
        window.admit("a", "nonce", at, NOW + timedelta(seconds=121))
    assert caught.value.code is Code.CLOCK_SKEW


def test_window_that_is_full_refuses_until_old_requests_are_forgotten():
    window = ReplayWindow(limit=2)
    window.admit("a", "1", NOW, NOW)
    window.admit("a", "2", NOW, NOW)
    with pytest.raises(Refused) as caught:
        window.admit("a", "3", NOW, NOW)
    assert caught.value.code is Code.RATE_LIMITED
    later = NOW + timedelta(seconds=121)
    window.admit("a", "3", later, later)


def test_window_forgets_requests_of_a_clock_that_was_set_back_since():
    window = ReplayWindow(limit=2)
    ahead = NOW + timedelta(days=365)
    window.admit("a", "1", ahead, ahead)
    window.admit("a", "2", ahead, ahead)
    window.admit("a", "3", NOW, NOW)
    assert window._count == {"a": 1}
    shortly_before = NOW - timedelta(seconds=59)
    with pytest.raises(Refused, match="was seen before"):
        window.admit("a", "3", NOW, shortly_before)


def test_node_that_fills_its_share_of_the_window_is_refused_alone():
    window = ReplayWindow(limit_of_node=2)
    for nonce in "12":
        window.admit("a", nonce, NOW, NOW)
    with pytest.raises(Refused, match="more than 2 requests of a"):
        window.admit("a", "3", NOW, NOW)
    window.admit("b", "1", NOW, NOW)
    later = NOW + timedelta(seconds=121)
    window.admit("a", "3", later, later)
    assert window._count == {"a": 1}


def test_limiter_lets_a_burst_through_and_then_the_rate():
    limiter = RateLimiter(per_second=10, burst=3)
    for _ in range(3):
        limiter.take("a", 100.0)
    limiter.take("b", 100.0)
    with pytest.raises(
        Refused, match=r"a made more than 3 requests at once and 10 a second, try again in 0\.1 s"
    ) as caught:
        limiter.take("a", 100.0)
    assert caught.value.code is Code.RATE_LIMITED
    with pytest.raises(Refused):
        limiter.take("a", 100.05)
    limiter.take("a", 100.11)
    with pytest.raises(Refused):
        limiter.take("a", 100.11)


def test_limiter_is_not_fooled_by_a_clock_that_goes_back():
    limiter = RateLimiter(per_second=1, burst=1)
    limiter.take("a", 100.0)
    with pytest.raises(Refused):
        limiter.take("a", 50.0)


def test_limiter_forgets_whom_it_has_not_seen_for_longest():
    limiter = RateLimiter(per_second=1, burst=1, limit=2)
    for key in "abac":
        try:
            limiter.take(key, 0.0)
        except Refused:
            assert key == "a"
    limiter.take("b", 0.0)
    assert len(limiter._buckets) == 2


@given(st.lists(st.floats(0, 5), min_size=1, max_size=50))
def test_limiter_never_lets_more_through_than_burst_and_rate(pauses):
    limiter = RateLimiter(per_second=2, burst=5)
    now, passed = 0.0, 0
    for pause in pauses:
        now += pause
        try:
            limiter.take("a", now)
        except Refused:
            continue
        passed += 1
    assert passed <= 5 + 2 * sum(pauses) + 1e-6
