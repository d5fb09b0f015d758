"""The enrolled workloads: an immutable snapshot, so that readers never see half a change."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Self

from interceptor.enrolment.others import Others, ReportedWorkloads
from interceptor.errors import EnrolmentError, InvalidInput, quoted
from interceptor.workload import IPAddress, Workload, WorkloadKey, normalised_address, parse_address

# Every hosts file binds these to loopback; a workload of that name would receive what others send to themselves.
RESERVED_NAMES: Final = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
LISTED_CANDIDATES: Final = 5  # how many names an error message lists before it says "and N more"


@dataclass(frozen=True, slots=True)
class Registry:
    """Who is enrolled, by name and by address. A change gives a new snapshot; build with `empty`, `with_workload`.

    A link-local address is unique on its own link only, so several workloads may share one. Beside the workloads of
    this node stand those of other nodes (`with_remote`), of whom we only hear: where both claim a name or an address,
    it is our own workload's.
    """

    _by_key: Mapping[WorkloadKey, Workload]
    _by_address: Mapping[IPAddress, Workload]  # without link-local addresses
    _others: Others = field(default_factory=ReportedWorkloads)

    @classmethod
    def empty(cls) -> Self:
        """A registry without workloads."""
        return cls(MappingProxyType({}), MappingProxyType({}))

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """All workloads, also of other nodes, sorted by namespace and name."""
        named = filter(self._is_free_name, self._others.everyone())
        others = (self._beside_ours(workload) for workload in named)
        everyone = {**{each.key: each for each in others if each is not None}, **self._by_key}
        return tuple(everyone[key] for key in sorted(everyone))

    @property
    def own(self) -> tuple[Workload, ...]:
        """The workloads of this node, sorted by namespace and name."""
        return tuple(self._by_key[key] for key in sorted(self._by_key))

    def __len__(self) -> int:
        return len(self.workloads)

    def __contains__(self, key: WorkloadKey) -> bool:
        return self.get(key) is not None

    def get(self, key: WorkloadKey) -> Workload | None:
        """The workload of that key, or None."""
        other = self._others.get(key)
        return self._by_key.get(key) or (self._beside_ours(other) if self._is_free_name(other) else None)

    def is_remote(self, address: IPAddress) -> bool:
        """Whether a workload of another node has this address."""
        address = normalised_address(address)
        return address not in self._by_address and self._others.by_address(address) is not None

    def by_address(self, address: IPAddress) -> Workload | None:
        """The workload that has this address, or None; a link-local address counts only when one workload has it."""
        address = normalised_address(address)
        if address.is_link_local:
            holders = [workload for workload in self._by_key.values() if address in workload.addresses]
            return holders[0] if len(holders) == 1 else None
        return self._by_address.get(address) or self._beside_ours(self._others.by_address(address))

    def without_address_in(self, after: "Registry") -> Iterator[tuple[IPAddress, Workload]]:
        """The addresses that a workload has here, and in a later registry nobody or one with another identity."""
        for held in (self._others.holdings(), self._by_address.items()):
            for address, workload in held:
                later = after.by_address(address)
                if later is None or later.identity != workload.identity:
                    yield address, workload

    def find(self, text: str) -> Workload:
        """The workload that a person means by `name`, `namespace/name` or an address.

        Raises EnrolmentError when nobody or more than one answers to it, and lists who might be meant.
        """
        candidates = self._matching(text)
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise EnrolmentError(f"{quoted(text)} may mean {_listed(candidates)}, give namespace/name")
        known = f"enrolled are {_listed(self.workloads)}" if len(self) else "none is enrolled"
        raise EnrolmentError(f"no workload is called {quoted(text)}, {known}")

    def with_workload(self, workload: Workload) -> "Registry":
        """A registry with this workload too; raises EnrolmentError when its name or an address is not free."""
        if workload.name in RESERVED_NAMES:
            raise EnrolmentError(
                f"workload {workload.key} cannot be enrolled, its name means the host itself, rename it"
            )
        if workload.key in self._by_key:
            raise EnrolmentError(
                f"workload {workload.key} is enrolled already, withdraw it first or use another name"
            )
        by_address = dict(self._by_address)
        for address in map(normalised_address, workload.addresses):
            if address.is_link_local:
                continue
            holder = by_address.setdefault(address, workload)
            if holder is not workload:
                raise EnrolmentError(
                    f"workload {workload.key} cannot be enrolled, its address {address} belongs to {holder.key}, "
                    "withdraw that one or give this one another address"
                )
        return Registry(
            MappingProxyType({**self._by_key, workload.key: workload}),
            MappingProxyType(by_address),
            self._others,
        )

    def without(self, key: WorkloadKey) -> "Registry":
        """A registry without this workload; raises EnrolmentError when it is not enrolled."""
        if key not in self._by_key:
            raise EnrolmentError(f"workload {key} is not enrolled, see 'interceptor workloads'")
        return Registry(
            MappingProxyType({other: workload for other, workload in self._by_key.items() if other != key}),
            MappingProxyType(
                {a: workload for a, workload in self._by_address.items() if workload.key != key}
            ),
            self._others,
        )

    def with_others(self, others: Others) -> "Registry":
        """A registry with these workloads of other nodes, in place of those that it had."""
        return Registry(self._by_key, self._by_address, others)

    def with_remote(self, workloads: Iterable[Workload]) -> "Registry":
        """The same with a list of them; where two of them claim one name or address, it is the first one's."""
        return self.with_others(ReportedWorkloads(workloads))

    def hosts_file(self, namespace: str, header: str) -> str:
        """The /etc/hosts of a workload in `namespace`: `header`, then a line for each address of each workload.

        Workloads of its own namespace are reachable as `name` and `name.namespace`, others only as the latter, as in
        Kubernetes. Link-local addresses are left out: they mean another host on each link; so are names with a dot,
        which would look like another's in its namespace.
        """
        lines = header.splitlines()
        for workload in self.workloads:
            if "." in workload.name:
                continue
            qualified = f"{workload.name}.{workload.namespace}"
            names = f"{workload.name} {qualified}" if workload.namespace == namespace else qualified
            lines += [f"{address} {names}" for address in workload.addresses if not address.is_link_local]
        return "".join(f"{line}\n" for line in lines)

    def _is_free_name(self, other: Workload | None) -> bool:
        return other is not None and other.key not in self._by_key and other.name not in RESERVED_NAMES

    def _beside_ours(self, other: Workload | None) -> Workload | None:
        """A workload of another node with those of its addresses that are not our own workloads'; None without any."""
        if other is None:
            return None
        addresses = tuple(a for a in other.addresses if a not in self._by_address and not a.is_link_local)
        if addresses == other.addresses:
            return other
        return replace(other, addresses=addresses) if addresses else None

    def _matching(self, text: str) -> list[Workload]:
        if "/" in text:
            return [workload for workload in self.workloads if str(workload.key) == text]
        try:
            address = parse_address(text)
        except InvalidInput:
            return [workload for workload in self.workloads if workload.name == text]
        return [workload for workload in self.workloads if address in workload.addresses]


def _listed(workloads: Sequence[Workload]) -> str:
    names = ", ".join(str(workload.key) for workload in workloads[:LISTED_CANDIDATES])
    more = len(workloads) - LISTED_CANDIDATES
    return f"{names} and {more} more" if more > 0 else names
