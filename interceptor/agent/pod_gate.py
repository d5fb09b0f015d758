"""The network namespaces below the pods' cgroup that are not enrolled: those known to be outside pass, the others wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from interceptor.kernel.pod_namespaces import open_all

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from interceptor.agent.outside import Outside
    from interceptor.kernel.hold import Hold


class PodGate:
    """Owner of what the kernel is told of namespaces outside of the mesh; a pod is known by a name of its own."""

    def __init__(self, hold: Hold, outside: Outside) -> None:
        self._hold = hold
        self._outside = outside
        self._admitted: dict[str, set[int]] = {}

    def guard(self, pods: Path) -> None:
        """Let unknown namespaces below this cgroup wait; KernelError."""
        self._hold.guard([pods])

    async def wait_newcomer(self) -> None:
        """Until an unknown namespace has made its first socket."""
        await trio.lowlevel.wait_readable(self._hold.events_fd)
        self._hold.drain_events()

    def is_anybody_waiting(self) -> bool:
        """Whether there are namespaces of which nothing is known."""
        return bool(self._hold.waiting())

    def is_admitted(self, name: str) -> bool:
        """Whether some namespace of this pod was admitted."""
        return bool(self._admitted.get(name))

    def admit(self, name: str, cgroup: Path, nursery: trio.Nursery) -> None:
        """Let every namespace of a pod outside of the mesh go; InterceptorError when one cannot be, and then it waits."""
        admitted = self._admitted.setdefault(name, set())
        for netns in open_all(cgroup):
            with netns:
                cookie = netns.cookie()
                if cookie not in admitted:
                    self._outside.admit(netns, cookie, nursery)
                    admitted.add(cookie)

    def take_in(self, name: str) -> None:
        """A pod is about to be enrolled: it is not outside any more, and waits if that fails.

        Nothing of it may be carried on in plaintext after that, so what was held is handed to nobody else first.
        """
        for cookie in self._admitted.pop(name, ()):
            self._hold.stop_steering(cookie)
            self._hold.forget(cookie)

    def retain(self, names: Collection[str]) -> None:
        """Take in all pods but these."""
        for name in self._admitted.keys() - set(names):
            self.take_in(name)

    def forget_earlier(self) -> None:
        """Forget what the last agent admitted and this one did not."""
        self._hold.retain(cookie for cookies in self._admitted.values() for cookie in cookies)
