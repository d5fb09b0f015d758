"""What is different to policy is remembered once, for an hour, over a restart, and what does not fit is told."""

from dataclasses import replace

import pytest

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.telemetry.connection_record import ClosedBy, CloseKind, ConnectionRecord
from interceptor.telemetry.recent_attempts import Attempt, RecentAttempts, Seen
from interceptor.workload import Direction, Endpoint, parse_address
from tests.policy.world import DB, WEB

NOW = 1_800_000_000.0
INBOUND = Attempt(
    Direction.INBOUND, DB.key, parse_address("10.0.0.1"), Endpoint.parse("10.0.0.2:80"), WEB.identity
)
OUTBOUND = Attempt(
    Direction.OUTBOUND, WEB.key, parse_address("10.0.0.1"), Endpoint.parse("[fd00::2]:443"), None
)


def record(attempt: Attempt, at: float = NOW, port: int = 4000) -> ConnectionRecord:
    """One that ended two seconds after it was made."""
    source = Endpoint(attempt.source, port)
    made = ConnectionRecord(attempt.direction, "c", "t", source, attempt.destination, at - 2, 1.0)
    made.source_identity = attempt.identity
    if attempt.direction is Direction.INBOUND:
        made.destination_workload = DB
    else:
        made.source_workload = WEB
    made.finish(3.0, ClosedBy.SOURCE, CloseKind.FIN)
    return made


def test_connections_that_policy_cannot_tell_apart_are_one() -> None:
    memory = RecentAttempts()
    memory.add(record(INBOUND))
    memory.add(record(INBOUND, NOW + 5, 4001))
    memory.add(record(OUTBOUND))
    memory.add(record(replace(INBOUND, identity=None)))
    found = dict(memory.since(NOW - 1))
    assert found[INBOUND] == Seen(2, NOW + 5)
    assert list(found) == [INBOUND, OUTBOUND, replace(INBOUND, identity=None)] or len(found) == 3
    assert dict(memory.since(NOW)) == {INBOUND: Seen(2, NOW + 5)}


def test_record_that_tells_too_little_is_left_out() -> None:
    memory = RecentAttempts()
    for field in ("source", "destination", "destination_workload"):
        made = record(INBOUND)
        setattr(made, field, None)
        memory.add(made)
    assert memory.since(0) == ()


def test_what_does_not_fit_is_forgotten_oldest_first_and_told() -> None:
    memory = RecentAttempts(2)
    other = replace(INBOUND, source=parse_address("10.0.0.9"))
    memory.add(record(INBOUND, NOW))
    memory.add(record(OUTBOUND, NOW + 1))
    memory.add(record(INBOUND, NOW + 2))
    assert memory.complete_since == 0
    memory.add(record(other, NOW + 3))
    assert [attempt for attempt, _ in memory.since(0)] == [INBOUND, other]
    assert memory.complete_since == NOW + 1


def test_memory_survives_in_lines_without_what_is_too_old() -> None:
    memory = RecentAttempts(3)
    for attempt, at in ((OUTBOUND, NOW - 4000), (INBOUND, NOW - 10), (INBOUND, NOW - 5)):
        memory.add(record(attempt, at))
    memory.complete_since = NOW - 3700
    lines = list(memory.lines(NOW))
    again = RecentAttempts()
    again.load(lines, NOW)
    assert again.since(0) == ((INBOUND, Seen(2, NOW - 5)),)
    assert again.complete_since == NOW - 3700
    later = RecentAttempts()
    later.load(lines, NOW + 3600)
    assert later.since(0) == ()
    future = RecentAttempts()
    future.load(lines, NOW - 100)  # the clock was set back: what is to come was not seen
    assert future.since(0) == ()


@pytest.mark.parametrize(
    "line",
    ["", "[]", "7", "{}", '{"complete_since": "x"}', '{"direction": "sideways"}', '{"direction": "inbound"}'],
)
def test_line_that_is_none_is_passed_over(line: str) -> None:
    memory = RecentAttempts()
    good = RecentAttempts()
    good.add(record(replace(INBOUND, identity=SpiffeId.parse("spiffe://a.b/ns/c/sa/d"))))
    memory.load([line, *good.lines(NOW)], NOW)
    assert memory.since(0) == good.since(0)
