from __future__ import annotations

import trio
import trio.testing

from interceptor.proxy.snapshot import Snapshot


async def test_snapshot_wakes_everyone_who_waits_with_the_newest_value(nursery: trio.Nursery) -> None:
    snapshot = Snapshot(1)
    seen: list[int] = []

    async def wait() -> None:
        seen.append(await snapshot.wait_changed())

    for _ in range(3):
        nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    snapshot.replace(2)
    snapshot.replace(3)
    await trio.testing.wait_all_tasks_blocked()
    assert (seen, snapshot.value) == ([3, 3, 3], 3)


async def test_snapshot_that_was_replaced_before_is_waited_for_again(nursery: trio.Nursery) -> None:
    snapshot = Snapshot("old")
    snapshot.replace("new")
    with trio.move_on_after(0.02) as scope:
        await snapshot.wait_changed()
    assert scope.cancelled_caught
