"""Links, addresses and routes: the door to pyroute2 (with `return_path`, which comes through here).

Without a namespace given, a function works in the calling thread's own: the host's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from interceptor.errors import KernelError
from interceptor.kernel.netns import link_has_ipv6

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from interceptor.kernel.netns import NetworkNamespace
    from interceptor.workload import IPAddress

IPInterface = IPv4Interface | IPv6Interface
Scope = Literal["global", "site", "link", "host"]

GUEST_LINK = "eth0"
_HOST_LINK = "icpt"  # how the names of the host's ends begin
_OWNER = "interceptor: "  # how the alias of a bridge of ours begins; its agent's run-time directory follows

_SCOPES: dict[int, Scope] = {0: "global", 200: "site", 253: "link", 254: "host"}  # rtnetlink(7)
_SIOCGIFINDEX = 0x8933  # netdevice(7)
RTN_LOCAL = 2  # the type of a route to ourselves
_IFA_F_NODAD, _IFA_F_DADFAILED = 0x02, 0x08
_DUMP_ATTEMPTS = 5
_USABLE_PAUSE_SECONDS, _USABLE_ATTEMPTS = 0.001, 1000


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """One address of a namespace, and how far it is valid."""

    address: IPAddress
    prefix_length: int
    scope: Scope
    link_index: int


@contextlib.contextmanager
def opened(netns: NetworkNamespace | None, attempt: str) -> Iterator[Any]:
    """An rtnetlink socket inside a namespace (None: the thread's own); the thread itself stays where it is.

    What the kernel refuses in the body becomes KernelError("cannot <attempt>: <reason>").
    """
    try:
        with netns.entered() if netns is not None else contextlib.nullcontext():
            route_socket = IPRoute()
        with route_socket:
            yield route_socket
    except NetlinkError as error:
        raise KernelError(f"cannot {attempt}: {os.strerror(error.code)}") from error
    except OSError as error:
        raise KernelError(f"cannot {attempt}: {error.strerror or error}") from error


@contextlib.contextmanager
def tolerating(*numbers: int) -> Iterator[None]:
    """Pass over the kernel's errors that mean "it is so already"."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in numbers:
            raise


def addresses(netns: NetworkNamespace | None = None) -> tuple[LinkAddress, ...]:
    """Every address that is local there, link-local ones included, loopback ones not; each link's primary first."""
    with opened(netns, "list the addresses of " + (netns.description if netns else "this host")) as route:
        return tuple(
            found for message in _dump(route.get_addr) if (found := _link_address(message)) is not None
        )


def link_addresses(name: str, netns: NetworkNamespace) -> tuple[IPAddress, ...]:
    """The addresses of one link of a namespace, in the kernel's order; none when there is no such link."""
    with opened(netns, f"list the addresses of {name} in {netns.description}") as route:
        link = _find(route, name)
        found = [] if link is None else [_link_address(message) for message in _dump(route.get_addr)]
    return tuple(each.address for each in found if each is not None and each.link_index == link["index"])


def has_link(name: str) -> bool:
    """Whether the host has a link of that name; without netlink, since it is asked all the time."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCGIFINDEX, struct.pack("16s16x", name.encode()))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return False
        raise KernelError(f"cannot look for link {name}: {error.strerror}") from error
    return True


def ensure_bridge(name: str, ipv4: IPv4Interface, ipv6: IPv6Interface, *, owner: Path | None = None) -> bool:
    """Have a bridge of that name, up, with these addresses of ours; IPv6 only if the host has it. True: it is new.

    `owner` is the run-time directory of the agent that wants it: written on the bridge (its alias), unless it is one
    that somebody else made.

    Raises KernelError when a link of that name is something else or another agent's, or another link's subnet overlaps:
    the host would lose its way there. What is there already is kept.
    """
    with opened(None, f"set up bridge {name}") as route:
        link = _find(route, name)
        if link is not None and _kind(link) != "bridge":
            raise KernelError(
                f"link {name} exists and is no bridge, but {_kind(link) or 'hardware'}: choose another bridge.name"
            )
        _refuse_bridge_of_others(link, name, owner)
        for wanted in (ipv4, ipv6):
            _refuse_overlap(route, name, wanted)
        if link is None:
            # A bridge without an address of its own takes one from its ports, and so changes it when they come and go:
            # its neighbours would talk to nobody for a while.
            route.link("add", ifname=name, kind="bridge", address=_hardware_address(name))
        try:
            index = _index(route, name)
            _add_address(route, index, ipv4)
            if link_has_ipv6(name):
                _add_address(route, index, ipv6)
            route.link("set", index=index, state="up")
            _write_owner(route, index, name, owner)
        except BaseException:
            if link is None:
                _delete(route, name)
            raise
    return link is None


def join_bridge(bridge: str, host_links: Iterable[str]) -> None:
    """Make links that are there already ports of a bridge; those that are gone are passed over."""
    with opened(None, f"join links to bridge {bridge}") as route:
        index = _index(route, bridge)
        for name in host_links:
            link = _find(route, name)
            if link is not None:
                route.link("set", index=link["index"], master=index)


def require_own_bridge(name: str, owner: Path) -> None:
    """Raise KernelError when a bridge of that name is another agent's; `owner` as in `ensure_bridge`."""
    with opened(None, f"look at bridge {name}") as route:
        _refuse_bridge_of_others(_find(route, name), name, owner)


def remove_bridge(name: str) -> None:
    """Undo `ensure_bridge`, and remove every workload's link on it. None there is no error.

    A link of that name that somebody else made (it is no bridge, or has another hardware address) stays.
    """
    with opened(None, f"remove bridge {name}") as route:
        link = _find(route, name)
        if link is None or _kind(link) != "bridge":
            return
        for port in _dump(lambda: route.get_links(master=link["index"])):
            if port.get("ifname").startswith(_HOST_LINK):
                _delete(route, port.get("ifname"))
        if link.get("address") == _hardware_address(name):
            _delete(route, name)


def host_link_name(workload: str) -> str:
    """The name of the host's end of a workload's veth pair: the same for the same text, at most 15 characters."""
    return f"{_HOST_LINK}{hashlib.sha256(workload.encode()).hexdigest()[:10]}"


def attach_to_bridge(
    bridge: str,
    netns: NetworkNamespace,
    host_link: str,
    interfaces: Iterable[IPInterface],
    gateways: Iterable[IPAddress],
    guest_link: str = GUEST_LINK,
) -> None:
    """Join a namespace to a bridge: a veth pair, the guest's addresses (usable at once), a default route per gateway.

    IPv6 is left out where the namespace has it disabled. Raises KernelError when anything fails; then the pair is gone.
    """
    own = tuple(interfaces)
    with opened(None, f"attach {netns.description} to bridge {bridge}") as route:
        master = _find(route, bridge)
        if master is None or _kind(master) != "bridge":
            raise KernelError(f"cannot attach {netns.description}: there is no bridge {bridge}")
        mtu = master.get("mtu")
        # The guest's end is made inside the namespace: it never appears, under a name that may be taken, on the host.
        peer = {"ifname": guest_link, "mtu": mtu, "net_ns_fd": netns.fd}
        # The next one with these addresses has this hardware address too: otherwise its neighbours would go on sending
        # to the one that ended, for ten seconds or so.
        peer["address"] = _hardware_address(" ".join(str(interface.ip) for interface in own))
        route.link("add", ifname=host_link, kind="veth", mtu=mtu, peer=peer)
        try:
            _write_sysctl(f"net/ipv6/conf/{host_link}/disable_ipv6", "1")  # a bridge's port needs no address
            route.link("set", index=_index(route, host_link), master=master["index"], state="up")
            _configure_guest(netns, guest_link, own, tuple(gateways))
            for name in (host_link, bridge):
                _wait_until_usable(route, name, ())
        except BaseException:
            _delete(route, host_link)
            raise


def remove_link(name: str) -> None:
    """Remove a link (for a veth pair: both ends); none there is no error."""
    with opened(None, f"remove link {name}") as route:
        _delete(route, name)


def _configure_guest(
    netns: NetworkNamespace, name: str, interfaces: tuple[IPInterface, ...], gateways: tuple[IPAddress, ...]
) -> None:
    with netns.entered():
        # Nobody else can have these addresses, and duplicate address detection would take a second.
        _write_sysctl(f"net/ipv6/conf/{name}/accept_dad", "0")
        versions = {4, 6} if link_has_ipv6(name) else {4}
    with opened(netns, f"set up {name} in {netns.description}") as route:
        route.link("set", index=_index(route, "lo"), state="up")
        index = _index(route, name)
        wanted = [interface for interface in interfaces if interface.version in versions]
        for interface in wanted:
            _add_address(route, index, interface)
        route.link("set", index=index, state="up")
        for gateway in gateways:
            if gateway.version in versions:
                route.route("add", family=family_of(gateway), dst="default", gateway=str(gateway), oif=index)
        _wait_until_usable(route, name, wanted)


def _wait_until_usable(route: Any, name: str, own: Iterable[IPInterface]) -> None:  # noqa: ANN401
    """Until a link carries packets, and packets to these addresses of ours are taken in: a millisecond, mostly.

    The kernel does both in the background, some time after it has said yes. Before that, packets are lost without a
    word; one time in five, the first connection would take a second.
    """
    for _ in range(_USABLE_ATTEMPTS):
        if route.link("get", ifname=name)[0].get("operstate") == "UP" and all(
            route.route("get", family=family_of(interface), dst=str(interface.ip))[0]["type"] == RTN_LOCAL
            for interface in own
        ):
            return
        time.sleep(_USABLE_PAUSE_SECONDS)
    raise KernelError(f"link {name} is up, but carries nothing")


def family_of(value: IPAddress | IPInterface) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if value.version == 4 else socket.AF_INET6


def _dump(request: Any) -> list[Any]:  # noqa: ANN401 - pyroute2 ships no types
    """A listing that nothing changed while it was made: the kernel says so, and then one asks again."""
    for _ in range(_DUMP_ATTEMPTS - 1):
        with contextlib.suppress(NetlinkDumpInterrupted):
            return list(request())
    return list(request())


def _link_address(message: Any) -> LinkAddress | None:  # noqa: ANN401
    # IFA_LOCAL is ours; on a point-to-point link IFA_ADDRESS is the other end's.  IPv6 mostly has the latter only.
    address = ip_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    if address.is_loopback or flags & _IFA_F_DADFAILED:  # the latter is somebody else's, and unused
        return None
    return LinkAddress(
        address, message["prefixlen"], _SCOPES.get(message["scope"], "global"), message["index"]
    )


def _refuse_bridge_of_others(link: Any, name: str, owner: Path | None) -> None:  # noqa: ANN401
    alias = (link.get("ifalias") if link is not None else None) or ""
    theirs = Path(alias.removeprefix(_OWNER))
    # A directory that is gone was removed with everything else of that agent.
    if owner is None or not alias.startswith(_OWNER) or not theirs.is_dir():
        return
    if theirs.resolve() != owner.resolve():
        raise KernelError(
            f"bridge {name} belongs to the agent whose paths.run is {theirs}: choose another bridge.name, or run "
            "'interceptor down' with that agent's configuration"
        )


def _write_owner(route: Any, index: int, name: str, owner: Path | None) -> None:  # noqa: ANN401
    link = route.link("get", index=index)[0]
    if owner is not None and link.get("address") == _hardware_address(name):
        route.link("set", index=index, ifalias=f"{_OWNER}{owner}")


def _refuse_overlap(route: Any, bridge: str, wanted: IPInterface) -> None:  # noqa: ANN401
    for message in _dump(route.get_addr):
        found = _link_address(message)
        if found is None or found.address.version != wanted.version or found.scope == "link":
            continue
        theirs = ip_interface(f"{found.address}/{found.prefix_length}")
        name = _name(route, found.link_index) if wanted.network.overlaps(theirs.network) else None
        if name not in (None, bridge):
            raise KernelError(
                f"the subnet {wanted.network} of bridge {bridge} overlaps with {theirs} on {name}: choose another "
                f"bridge.ipv{wanted.version}"
            )


def _name(route: Any, index: int) -> str | None:  # noqa: ANN401
    """The name of the link with this number; None when it was removed meanwhile."""
    found = []
    with tolerating(errno.ENODEV):
        found = route.link("get", index=index)
    return str(found[0].get("ifname")) if found else None


def _add_address(route: Any, index: int, interface: IPInterface) -> None:  # noqa: ANN401
    # Addresses of ours are ours alone, so IPv6 need not ask around for a second first.
    flags = _IFA_F_NODAD if interface.version == 6 else 0
    with tolerating(errno.EEXIST):
        route.addr(
            "add",
            index=index,
            family=family_of(interface),
            address=str(interface.ip),
            prefixlen=interface.network.prefixlen,
            flags=flags,
        )


def _find(route: Any, name: str) -> Any:  # noqa: ANN401
    found = []
    with tolerating(errno.ENODEV):
        found = route.link("get", ifname=name)
    return found[0] if found else None


def _index(route: Any, name: str) -> int:  # noqa: ANN401
    return int(route.link("get", ifname=name)[0]["index"])


def _kind(link: Any) -> str | None:  # noqa: ANN401
    kind = link.get(("linkinfo", "kind"))
    return None if kind is None else str(kind)


def _delete(route: Any, name: str) -> None:  # noqa: ANN401
    link = _find(route, name)
    if link is not None:
        with tolerating(errno.ENODEV):
            route.link("del", index=link["index"])


def _hardware_address(name: str) -> str:
    """A locally administered unicast MAC address, the same for the same name."""
    return ":".join(("02", *(f"{byte:02x}" for byte in hashlib.sha256(name.encode()).digest()[:5])))


def _write_sysctl(name: str, value: str) -> None:
    """Write a sysctl of the calling thread's namespace; one that the kernel does not have is passed over."""
    with contextlib.suppress(FileNotFoundError):
        Path("/proc/sys", name).write_text(value, encoding="ascii")
