"""The workloads of other nodes, as a registry asks for them: from a list, or from whatever else knows them."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from interceptor.identity.spiffe_id import SpiffeId
from interceptor.workload import IPAddress, Workload, WorkloadKey


class Others(Protocol):
    """An immutable set of workloads, none of them on this node."""

    def get(self, key: WorkloadKey) -> Workload | None:
        """The workload of that key."""

    def by_address(self, address: IPAddress) -> Workload | None:
        """The workload that has this normalised address."""

    def newcomer(self, address: IPAddress, identity: SpiffeId) -> Workload | None:
        """One of that identity that is known to be there, but not yet with which address: it may have a free one."""

    def everyone(self) -> Iterable[Workload]:
        """All of them."""

    def holdings(self) -> Iterable[tuple[IPAddress, Workload]]:
        """Each address that may be lost before its holder has fallen silent, with the holder."""


class ReportedWorkloads:
    """A list of them; where two claim one name or address, it is the first one's."""

    __slots__ = ("_by_address", "_by_key", "_reported")

    def __init__(self, workloads: Iterable[Workload] = ()) -> None:
        self._reported = tuple(workloads)
        by_key: dict[WorkloadKey, Workload] = {}
        by_address: dict[IPAddress, Workload] = {}
        for workload in self._reported:
            by_key.setdefault(workload.key, workload)
            for address in workload.addresses:
                by_address.setdefault(address, workload)
        self._by_key: Mapping[WorkloadKey, Workload] = by_key
        self._by_address: Mapping[IPAddress, Workload] = by_address

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReportedWorkloads) and self._reported == other._reported

    def get(self, key: WorkloadKey) -> Workload | None:
        """The workload of that key."""
        return self._by_key.get(key)

    def by_address(self, address: IPAddress) -> Workload | None:
        """The workload that has this normalised address."""
        return self._by_address.get(address)

    def newcomer(self, address: IPAddress, identity: SpiffeId) -> Workload | None:
        """None: who is reported is reported with its addresses."""
        del address, identity
        return None

    def everyone(self) -> Iterable[Workload]:
        """Each name once."""
        return self._by_key.values()

    def holdings(self) -> Iterable[tuple[IPAddress, Workload]]:
        """All of them: a node reports who has gone, and its last connections may arrive later."""
        return self._by_address.items()
