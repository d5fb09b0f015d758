"""Who had an address until a moment ago: what a workload sent last may arrive after the news that it has gone."""

from typing import Final

from interceptor.enrolment.registry import Registry
from interceptor.workload import IPAddress, Workload, normalised_address

REMEMBERED_SECONDS: Final = 10.0
MAX_DEPARTED: Final = 10_000


class Departed:
    """The last holder of each address that nobody, or somebody else, has now; told of every change of the registry."""

    def __init__(self) -> None:
        self._gone: dict[IPAddress, tuple[Workload, float]] = {}  # oldest first

    def note(self, before: Registry, after: Registry, now: float) -> None:
        """The registry changed at a moment (in seconds of any clock that only goes forward)."""
        for address, workload in before.without_address_in(after):
            self._gone.pop(address, None)
            self._gone[address] = workload, now
        while self._gone and (len(self._gone) > MAX_DEPARTED or self._is_over(next(iter(self._gone)), now)):
            del self._gone[next(iter(self._gone))]

    def holder(self, address: IPAddress, now: float) -> Workload | None:
        """Who had the address within the last seconds, and has it no more."""
        address = normalised_address(address)
        if address not in self._gone or self._is_over(address, now):
            return None
        return self._gone[address][0]

    def _is_over(self, address: IPAddress, now: float) -> bool:
        return now - self._gone[address][1] > REMEMBERED_SECONDS
