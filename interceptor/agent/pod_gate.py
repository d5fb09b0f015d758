"""The network namespaces below the pods' cgroup that are not enrolled: those known to be outside pass, the others wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from interceptor.kernel.pod_namespaces import open_all

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from interceptor.agent.outside import Outside
    from interceptor.kernel.hold import Hold
    from interceptor.kernel.pod_namespaces import NamespaceId
    from interceptor.workload import IPAddress

# A pod may make namespaces that wait for ever, and as many as it likes: neither may keep us busy.
LOOK_SECONDS: Final = 1.0
MOST_REMEMBERED: Final = 256


class PodGate:
    """Owner of what the kernel is told of namespaces outside of the mesh; a pod is known by a name of its own."""

    def __init__(self, hold: Hold, outside: Outside) -> None:
        self._hold = hold
        self._outside = outside
        self._admitted: dict[str, set[int]] = {}
        self._looked_for: set[int] = set()
        self._looked_at = -LOOK_SECONDS

    def guard(self, pods: Path) -> None:
        """Let unknown namespaces below this cgroup wait; KernelError."""
        self._hold.guard([pods])

    async def wait_newcomer(self) -> None:
        """Until an unknown namespace has made its first socket."""
        await trio.lowlevel.wait_readable(self._hold.events_fd)
        self._hold.drain_events()

    def must_look(self) -> bool:
        """Whether to look through the pods that were admitted once more: something waits that was not looked for yet, or not lately."""
        waiting = {each.cookie for each in self._hold.waiting()}
        now = trio.current_time()
        if waiting <= self._looked_for and (not waiting or now < self._looked_at + LOOK_SECONDS):
            return False
        self._looked_for, self._looked_at = waiting, now
        if len(waiting) > MOST_REMEMBERED:
            for cookie in waiting:  # those that are there still tell us again, with their next packet
                self._hold.forget(cookie)
        return True

    def is_admitted(self, name: str) -> bool:
        """Whether some namespace of this pod was admitted."""
        return bool(self._admitted.get(name))

    def admit(
        self,
        name: str,
        cgroup: Path,
        nursery: trio.Nursery,
        *,
        addresses: Collection[IPAddress],
        contested: Collection[NamespaceId],
    ) -> None:
        """Let every namespace of a pod outside of the mesh go (see `open_all`); InterceptorError when one cannot be, and then it waits."""
        admitted = self._admitted.setdefault(name, set())
        try:
            for netns in open_all(cgroup, addresses, contested):
                with netns:
                    cookie = netns.cookie()
                    if cookie not in admitted:
                        self._outside.admit(netns, cookie, nursery)
                        admitted.add(cookie)
        except BaseException:
            self._looked_for.clear()
            raise

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
