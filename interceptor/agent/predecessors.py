"""The agents before this one that have handed over and still relay what was open: what they say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interceptor.agent.handover_wire import WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.agent.handover_wire import Wire
    from interceptor.workload import WorkloadKey


class Predecessors:
    """Mostly there is none, sometimes one; more when agents follow each other quickly."""

    def __init__(self) -> None:
        self._told: dict[Wire, Mapping[str, Any]] = {}

    @property
    def wires(self) -> tuple[Wire, ...]:
        """The ways to them: a successor follows them too."""
        return tuple(self._told)

    async def follow(self, wire: Wire) -> None:
        """Note what one says, until it has ended; the wire is ours to close."""
        self._told[wire] = {}
        try:
            while True:
                message = await wire.receive()
                message.close_descriptors()
                draining = message.content.get("draining")
                if isinstance(draining, dict):
                    self._told[wire] = draining
        except WireError:
            pass
        finally:
            del self._told[wire]
            wire.close()

    def shown(self) -> list[dict[str, object]]:
        """For the status; the keys are stable."""
        return [
            {"pid": wire.pid, "connections": told.get("connections"), "until": told.get("until")}
            for wire, told in self._told.items()
        ]

    def relayed_of(self, key: WorkloadKey) -> tuple[int, int]:
        """Of one workload: how many connections they relay, and how many bytes those have carried."""
        found = [told.get("of", {}).get(str(key), (0, 0)) for told in self._told.values()]
        return sum(count for count, _ in found), sum(carried for _, carried in found)
