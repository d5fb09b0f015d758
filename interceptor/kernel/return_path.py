"""Answers to a client whose address the proxy has borrowed, inside a workload's network namespace.

So that the application sees its client's real address, the proxy connects to it from that address
(`sockets.make_transparent`). The answers would leave by the default route. But the proxy's packets bear a mark, the
kernel gives the same mark to what answers them, and a rule sends what is marked to loopback, back to the proxy:

    ip rule add fwmark 0x15008 lookup 15008 priority 15008
    ip route add local default dev lo table 15008

once for each family, for IPv6 `ip -6 route add local ::1 dev LINK table local` for each link (see `_link_routes`), and
the sysctls below. Tried one by one, with every rp_filter: without tcp_fwmark_accept no
connection comes about; without fwmark_reflect a refused one is not refused, but hangs; src_valid_mark, which others
set beside them, changes nothing, because a packet on loopback is not routed a second time.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interceptor.errors import KernelError, StateError, quoted
from interceptor.kernel.abi import RETURN_PATH_MARK
from interceptor.kernel.netlink import RTN_LOCAL, opened, tolerating

if TYPE_CHECKING:
    from collections.abc import Mapping

    from interceptor.kernel.netns import NetworkNamespace

TABLE = PRIORITY = 15008  # after the table "local" (0), before "main" (32766)

_SYSCTLS = {
    "net/ipv4/tcp_fwmark_accept": "1",
    "net/ipv4/fwmark_reflect": "1",
    "net/ipv6/fwmark_reflect": "1",
    # Multipath TCP does not pass the BPF hook of connect(2): programs fall back to TCP.
    "net/mptcp/enabled": "0",
    # All tunnels to one destination go to one port: where the other side closes first, and so our end waits out its
    # minute, 28,000 connections a minute would use up all ports. With timestamps, one second does (RFC 6191).
    "net/ipv4/tcp_tw_reuse": "1",
}
_OPTIONAL = frozenset({"net/ipv6/fwmark_reflect", "net/mptcp/enabled"})  # not every kernel is built with them

_LOOPBACK_INDEX = 1  # in every network namespace
_SCOPE_UNIVERSE, _SCOPE_HOST = 0, 254
_TABLE_LOCAL = 255
_LINK_WITHOUT_IPV6 = (errno.EACCES, errno.EINVAL, errno.ENETDOWN, errno.ENODEV)
_GONE = (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class PreviousSysctls:
    """The values that `install_return_path` replaced, by name below /proc/sys."""

    values: Mapping[str, str]

    def to_dict(self) -> dict[str, str]:
        """For a state file."""
        return dict(self.values)

    @classmethod
    def from_dict(cls, data: object) -> PreviousSysctls:
        """From a state file. Raises StateError on anything that `to_dict` cannot have written."""
        if not isinstance(data, dict):
            raise StateError(f"previous sysctls are {quoted(data)}, not a mapping")
        for name, value in data.items():
            # What is in there will be written to the kernel as root.
            if name not in _SYSCTLS or not isinstance(value, str) or not value.isdecimal():
                raise StateError(f"{quoted(name)} = {quoted(value)} is not a sysctl that was changed")
        return cls(dict(data))


def current_sysctls(netns: NetworkNamespace) -> PreviousSysctls:
    """The values that `install_return_path` would replace, as they are now. Raises KernelError."""
    return PreviousSysctls(_read_sysctls(netns))


def install_return_path(netns: NetworkNamespace) -> PreviousSysctls:
    """Set all this up in a namespace, for IPv6 if its loopback has it; its loopback is brought up as well.

    May be repeated, but what is returned are the values found *now*: keep the first answer for `remove_return_path`.
    Raises KernelError when anything fails; then everything is as it was.
    """
    previous = current_sysctls(netns)
    try:
        _write_sysctls(netns, {name: _SYSCTLS[name] for name in previous.values})
        _add_rules_and_routes(netns)
    except BaseException:
        remove_return_path(netns, previous)
        raise
    return previous


def remove_return_path(netns: NetworkNamespace, previous: PreviousSysctls | None) -> None:
    """Undo `install_return_path`; what is gone already is no error. Loopback stays up."""
    with opened(netns, f"remove the return path from {netns.description}") as route:
        for family in (socket.AF_INET, socket.AF_INET6):
            with tolerating(*_GONE):
                route.rule("del", **_rule(family))
            with tolerating(*_GONE):
                route.route("del", **_route(family))
        for link_route in _link_routes(route):
            with tolerating(*_GONE):
                route.route("del", **link_route)
    if previous is not None:
        _write_sysctls(netns, previous.values)


def has_return_path(netns: NetworkNamespace) -> bool:
    """Whether rules, routes and sysctls are all as `install_return_path` makes them."""
    if any(value != _SYSCTLS[name] for name, value in _read_sysctls(netns).items()):
        return False
    with opened(netns, f"look for the return path in {netns.description}") as route:
        return all(_has_rule(route, family) and _has_route(route, family) for family in _families(netns))


def _add_rules_and_routes(netns: NetworkNamespace) -> None:
    attempt = f"set up the return path in {netns.description}"
    with opened(netns, attempt) as route:
        route.link("set", index=_LOOPBACK_INDEX, state="up")
        for family in _families(netns):
            with tolerating(errno.EEXIST):
                route.route("add", **_route(family))
            with tolerating(errno.EEXIST):
                route.rule("add", **_rule(family))
        if netns.has_ipv6():
            for link_route in _link_routes(route):
                with tolerating(errno.EEXIST, *_LINK_WITHOUT_IPV6):
                    route.route("add", **link_route)
    if not has_return_path(netns):  # what existed was not ours
        raise KernelError(f"cannot {attempt}: routing table {TABLE} is in use there")


def _families(netns: NetworkNamespace) -> tuple[int, ...]:
    return (socket.AF_INET, socket.AF_INET6) if netns.has_ipv6() else (socket.AF_INET,)


def _rule(family: int) -> dict[str, int]:
    return {"family": family, "fwmark": RETURN_PATH_MARK, "table": TABLE, "priority": PRIORITY}


def _route(family: int) -> dict[str, object]:
    return {
        "family": family,
        "type": "local",
        "dst": "default",
        # IPv4 takes a local route only with this scope; IPv6 knows no scopes.
        "scope": _SCOPE_HOST if family == socket.AF_INET else _SCOPE_UNIVERSE,
        "oif": _LOOPBACK_INDEX,
        "table": TABLE,
    }


def _link_routes(route: Any) -> list[dict[str, object]]:  # noqa: ANN401
    """To ::1, for what must leave by a certain link.

    What a captured connection's kernel end says without a socket (the last acknowledgement, from TIME_WAIT; a reset)
    goes from the workload's address to ::1. To a loopback address IPv6 answers by the link on which the packet came in,
    and that is the one that has the workload's address: without these routes it is sent out there, and lost.
    """
    return [
        {
            "family": socket.AF_INET6,
            "type": "local",
            "dst": "::1/128",
            "oif": link["index"],
            "table": _TABLE_LOCAL,
        }
        for link in route.get_links()
        if link["index"] != _LOOPBACK_INDEX
    ]


def _has_rule(route: Any, family: int) -> bool:  # noqa: ANN401 - pyroute2 ships no types
    return any(
        message.get_attr("FRA_FWMARK") == RETURN_PATH_MARK and message.get_attr("FRA_TABLE") == TABLE
        for message in route.get_rules(family=family)
    )


def _has_route(route: Any, family: int) -> bool:  # noqa: ANN401
    return any(
        message["type"] == RTN_LOCAL and message["dst_len"] == 0
        for message in route.get_routes(family=family, table=TABLE)
    )


def _read_sysctls(netns: NetworkNamespace) -> dict[str, str]:
    values = {}
    with netns.entered():
        # /proc/sys/net shows the namespace of the thread that opens it.
        for name in _SYSCTLS:
            try:
                values[name] = Path("/proc/sys", name).read_text(encoding="ascii").strip()
            except OSError as error:
                if name not in _OPTIONAL:
                    raise KernelError(f"cannot read sysctl {name}: {error.strerror}") from error
    return values


def _write_sysctls(netns: NetworkNamespace, values: Mapping[str, str]) -> None:
    with netns.entered():
        for name, value in values.items():
            try:
                with contextlib.suppress(FileNotFoundError):
                    Path("/proc/sys", name).write_text(value, encoding="ascii")
            except OSError as error:
                raise KernelError(f"cannot set sysctl {name} to {value}: {error.strerror}") from error
