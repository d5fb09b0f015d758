"""A value that one owner replaces and many read; readers can wait for the next one."""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Snapshot(Generic[T]):
    """Holds an immutable value.  `value` is in force now; `replace` is for its one owner."""

    __slots__ = ("_changed", "_value")

    def __init__(self, value: T) -> None:
        self._value = value
        self._changed = trio.Event()

    @property
    def value(self) -> T:
        return self._value

    def replace(self, value: T) -> None:
        """Put another value in force and wake everyone who waits."""
        self._value = value
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_changed(self) -> T:
        """Wait until the value is replaced; returns the new one."""
        await self._changed.wait()
        return self._value
