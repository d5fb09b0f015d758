"""Places for signing requests: bounded, urgent ones first, and none is lost."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from interceptor.credentials.signing_queue import SigningQueue


async def test_queue_lets_so_many_in_at_once_and_no_more(nursery: trio.Nursery) -> None:
    queue, inside, most = SigningQueue(places=3), 0, 0

    async def sign() -> None:
        nonlocal inside, most
        async with queue.place(urgent=False):
            inside += 1
            most = max(most, inside)
            await trio.lowlevel.checkpoint()
            inside -= 1

    async with trio.open_nursery() as signers:
        for _ in range(20):
            signers.start_soon(sign)
    assert most == 3
    assert queue.waiting == 0


async def test_queue_serves_the_urgent_first_and_each_line_in_its_order(nursery: trio.Nursery) -> None:
    queue, order, go = SigningQueue(places=1), [], trio.Event()

    async def sign(name: str, *, urgent: bool) -> None:
        async with queue.place(urgent=urgent):
            order.append(name)
            await go.wait()

    for name, urgent in (
        ("first", False),
        ("patient 1", False),
        ("urgent 1", True),
        ("patient 2", False),
        ("urgent 2", True),
    ):
        nursery.start_soon(lambda name=name, urgent=urgent: sign(name, urgent=urgent))
        await trio.testing.wait_all_tasks_blocked()
    assert queue.waiting == 4
    go.set()
    await trio.testing.wait_all_tasks_blocked()
    assert order == ["first", "urgent 1", "urgent 2", "patient 1", "patient 2"]


async def test_place_of_one_who_fails_goes_to_the_next(nursery: trio.Nursery) -> None:
    queue = SigningQueue(places=1)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="refused"):
            async with queue.place(urgent=True):
                raise RuntimeError("refused")
    with trio.fail_after(1):
        async with queue.place(urgent=False):
            pass


async def test_one_who_leaves_while_waiting_takes_no_place(nursery: trio.Nursery) -> None:
    queue = SigningQueue(places=1)
    scope = trio.CancelScope()

    async def leave() -> None:
        with scope:
            async with queue.place(urgent=True):
                raise AssertionError("it was let in")

    async with queue.place(urgent=False):
        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert queue.waiting == 0
    with trio.fail_after(1):
        async with queue.place(urgent=False):
            pass


async def test_place_given_at_the_moment_of_leaving_goes_to_the_next(nursery: trio.Nursery) -> None:
    """The event is set and the scope cancelled before the waiting task runs again."""
    queue = SigningQueue(places=1)
    scope = trio.CancelScope()

    async def leave() -> None:
        with scope:
            async with queue.place(urgent=True):
                await trio.lowlevel.checkpoint()

    async with queue.place(urgent=False):
        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    with trio.fail_after(1):
        async with queue.place(urgent=False):
            pass
