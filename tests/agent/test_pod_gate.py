"""How often the pods outside of the mesh are looked through again: neither never, nor all the time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio

from interceptor.agent.pod_gate import LOOK_SECONDS, MOST_REMEMBERED, PodGate

if TYPE_CHECKING:
    from trio.testing import MockClock


class HoldOfTests:
    """Namespaces that wait, by their cookies."""

    def __init__(self) -> None:
        self.cookies: set[int] = set()

    def waiting(self) -> list[Any]:
        return [SimpleNamespace(cookie=cookie) for cookie in self.cookies]

    def forget(self, cookie: int) -> None:
        self.cookies.discard(cookie)


def gate_of(hold: Any) -> PodGate:
    return PodGate(hold, SimpleNamespace())  # type: ignore[arg-type]


async def test_what_waits_is_looked_for_at_once_and_then_once_a_second(autojump_clock: MockClock) -> None:
    hold = HoldOfTests()
    gate = gate_of(hold)
    assert not gate.must_look()
    hold.cookies = {1}
    assert [gate.must_look() for _ in range(3)] == [True, False, False]
    hold.cookies = {1, 2}
    assert [gate.must_look() for _ in range(2)] == [True, False]
    await trio.sleep(LOOK_SECONDS)
    assert [gate.must_look() for _ in range(2)] == [True, False]


async def test_flood_of_namespaces_is_forgotten_and_looked_for_once(autojump_clock: MockClock) -> None:
    hold = HoldOfTests()
    gate = gate_of(hold)
    flood = set(range(MOST_REMEMBERED + 1))
    hold.cookies = set(flood)
    assert gate.must_look()
    assert hold.cookies == set()
    hold.cookies = {7}  # one that is there still
    assert not gate.must_look()
