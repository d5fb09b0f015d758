"""Whether each policy object can be enforced, by the very parser of those who enforce it.

What an agent makes of one that cannot be depends on whether that agent knows a good state of it (`node_pods/policies`);
here stands what is so for all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from interceptor.cluster.cluster import Cluster
from interceptor.cluster.condition import Condition, Told, one_line
from interceptor.cluster.head import Head, ObjectKey
from interceptor.cluster.policy_object import AUTHORIZATION_POLICY, PEER_AUTHENTICATION
from interceptor.errors import PolicyError
from interceptor.node_pods.policies import Parse

ACCEPTED: Final = "Accepted"
INVALID: Final = "Invalid"
PLURALS: Final = {
    PEER_AUTHENTICATION: "peerauthentications",
    AUTHORIZATION_POLICY: "authorizationpolicies",
}
_GOOD: Final = Condition(True, ACCEPTED, "every agent that follows the API enforces it")
_CONSEQUENCE: Final = "agents keep its last good state; those that never had one refuse everything in its namespace that it might forbid"


@dataclass(frozen=True, slots=True)
class PolicyState:
    """One object; `generation` and `told`, what its status says, are not known of one that cannot be read at all."""

    sort: str
    head: Head
    condition: Condition
    generation: int | None
    told: Told | None


class PolicyStates:
    """Remembers the verdict on each state of an object; one owner."""

    def __init__(self, parse: Parse) -> None:
        """`parse` is for the text of one object."""
        self._parse = parse
        self._known: dict[tuple[str, ObjectKey], tuple[str, Condition]] = {}

    def of(self, cluster: Cluster) -> Mapping[tuple[str, ObjectKey], PolicyState]:
        """All objects by their kind and name; those whose text did not change are not parsed again."""
        found = {(each.sort, each.head.key): each for each in self._all(cluster)}
        self._known = {name: known for name, known in self._known.items() if name in found}
        return found

    def _all(self, cluster: Cluster) -> Iterator[PolicyState]:
        for sort, table in (
            (PEER_AUTHENTICATION, cluster.peer_authentications),
            (AUTHORIZATION_POLICY, cluster.authorization_policies),
        ):
            for each in table.objects.values():
                if each.head.key not in table.unreadable:
                    condition = self._verdict(sort, each.head.key, each.place, each.text)
                    yield PolicyState(sort, each.head, condition, each.generation, each.told)
            for broken in table.unreadable.values():
                yield PolicyState(sort, broken.head, _bad(broken.problem), None, None)

    def _verdict(self, sort: str, key: ObjectKey, place: str, text: str) -> Condition:
        known = self._known.get((sort, key))
        if known is not None and known[0] == text:
            return known[1]
        try:
            self._parse(place, text)
        except PolicyError as error:
            condition = _bad(str(error))
        else:
            condition = _GOOD
        self._known[sort, key] = (text, condition)
        return condition


def _bad(problem: str) -> Condition:
    return Condition(False, INVALID, one_line(f"{problem}: {_CONSEQUENCE}"))
