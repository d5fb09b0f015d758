"""Live connections come first, and the ring forgets the oldest."""

import pytest

from interceptor.policy.verdict import Denial, Reason
from interceptor.telemetry.connection_record import ClosedBy, CloseKind, ConnectionRecord
from interceptor.telemetry.recent import RecentConnections
from interceptor.workload import Direction


def record(name: str) -> ConnectionRecord:
    return ConnectionRecord(Direction.OUTBOUND, name, name, None, None, 0.0, 0.0)


def finish(recent: RecentConnections, one: ConnectionRecord) -> None:
    one.finish(1.0, ClosedBy.SOURCE, CloseKind.FIN)
    recent.finish(one)


def ids(recent: RecentConnections, limit: int) -> list[object]:
    return [shown["id"] for shown in recent.list(limit, 5.0)]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(9, ["e", "d", "c", "b"]), (3, ["e", "d", "c"]), (1, ["e"]), (0, [])],
)
def test_recent_lists_live_then_finished_newest_first(limit: int, expected: list[str]) -> None:
    recent = RecentConnections(limit=2)
    a, b, c, d, e = map(record, "abcde")
    for one in (a, b, c, d, e):
        recent.add(one)
    for one in (a, b, c):
        finish(recent, one)
    assert recent.live == (d, e)
    assert ids(recent, limit) == expected  # a has left the ring


def test_recent_shows_live_ones_as_of_now() -> None:
    recent = RecentConnections(limit=2)
    live = record("a")
    recent.add(live)
    live.bytes_sent = 7
    (shown,) = recent.list(9, 5.0)
    assert (shown["state"], shown["bytes_sent"], shown["duration_ms"]) == ("open", 7, 5000.0)


def test_recent_keeps_a_connection_that_was_never_live() -> None:
    recent = RecentConnections(limit=2)
    finish(recent, record("denied"))
    assert recent.live == ()
    assert ids(recent, 9) == ["denied"]


def test_recent_remembers_denials_longer_than_what_was_permitted() -> None:
    recent = RecentConnections(limit=2)
    for name in ("permitted", "first", "second", "third"):
        one = record(name)
        if name != "permitted":
            one.decide(Denial(Reason.PLAINTEXT_REFUSED))
        finish(recent, one)
    for name in "abc":
        finish(recent, record(name))
    assert ids(recent, 9) == ["c", "b", "third", "second"]
    assert ids(recent, 3) == ["c", "b", "third"]
