"""The port numbers that rules name, if they name any and all of them can be written down."""

from collections.abc import Iterable
from typing import Final

from interceptor.network_policy.model import NetworkPolicy, Rule

MAX_PORTS: Final = 500  # an AuthorizationPolicy lists each; beyond that nobody could read it


class NotRestricted(Exception):  # noqa: N818 - an answer, and expected
    """These rules let through what no list of ports can say; `str(e)` is the reason."""


def named_ports(rules: Iterable[tuple[NetworkPolicy, int, Rule]]) -> tuple[int, ...]:
    """The ports of ingress rules, of which each comes with its policy and number; raises NotRestricted.

    Entries for the tunnel's own port are left out: they open the way, and name no application.
    """
    ports: set[int] = set()
    for policy, number, rule in rules:
        try:
            ports.update(_ports(rule))
        except NotRestricted as error:
            raise NotRestricted(f"ingress[{number}] of {policy} {error}") from None
    if len(ports) > MAX_PORTS:
        raise NotRestricted(f"there would be {len(ports)} ports, more than {MAX_PORTS}")
    return tuple(sorted(ports))


def _ports(rule: Rule) -> Iterable[int]:
    if not rule.ports:
        raise NotRestricted("lets every port through")
    for port in rule.tcp:
        if port.name is not None:
            raise NotRestricted(f"names a port ({port.name}), and an AuthorizationPolicy takes numbers only")
        if port.last - port.first >= MAX_PORTS:
            raise NotRestricted(f"has a range of more than {MAX_PORTS} ports ({port})")
        if not port.is_tunnel:
            yield from range(port.first, port.last + 1)
