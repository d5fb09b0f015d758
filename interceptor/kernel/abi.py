"""Mirror of `bpf/abi.h`: the structs and constants that the BPF programs and the agent share.

`tests/kernel/test_abi.py` compiles the header with the host's C compiler and
compares every size, offset and constant with what is written here.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interceptor.workload import IPAddress, IPNetwork

ABI_VERSION = 2

OUTBOUND_PORT = 15001
INBOUND_PLAINTEXT_PORT = 15006
INBOUND_TUNNEL_PORT = 15008

# Carried by the proxy's connections to its workload; what bears it is answered to the proxy (see return_path).
RETURN_PATH_MARK = 0x15008

STRANGERS = 0

MAX_WORKLOADS = 4096
MAX_OWN_ADDRESSES = 16384
MAX_CAPTURED_PREFIXES = 16384
MAX_PENDING_FLOWS = 65536
MAX_LOCAL_ADDRESSES = 256
MAX_OUTSIDE = 16384
MAX_WAITING = 4096
MAX_PROBE_TARGETS = 16384
MAX_PROBE_FLOWS = 4096
MAX_RELAYED = 65536

HELD_FIRST_RETRY_TICKS = 50
HELD_LONGEST_RETRY_MS = 1000
HELD_RETRIES = 127
HELD_RETRIES_GROWING = 8

LISTENER_SLOTS = 4


class ListenerSlot(IntEnum):
    """Index of `inbound_listeners`; mirrors LISTENER_*."""

    PLAINTEXT_IPV4 = 0
    PLAINTEXT_IPV6 = 1
    TUNNEL_IPV4 = 2
    TUNNEL_IPV6 = 3


class Counter(IntEnum):
    """Index of `counters`; mirrors COUNTER_*."""

    CAPTURED_IPV4 = 0
    CAPTURED_IPV6 = 1
    REFUSED_STORAGE = 2
    REFUSED_FLOW = 3
    REFUSED_MPTCP = 4
    STEERED_PLAINTEXT = 5
    STEERED_TUNNEL = 6
    REFUSED_NO_LISTENER = 7
    REFUSED_LINK = 8
    UNBOUND_ANSWERS = 9
    HELD_CONNECTIONS = 10
    HELD_ARRIVALS = 11
    PASSED_PROBES = 12
    REFUSED_PROBES = 13
    REFUSED_DISGUISED = 14


class Prefix(ctypes.Structure):
    """Mirrors `struct prefix`, the key of `captured_prefixes`."""

    _fields_ = (("length", ctypes.c_uint32), ("address", ctypes.c_uint8 * 16))


class WorkloadEntry(ctypes.Structure):
    """Mirrors `struct workload_entry`, the value of `workloads`."""

    _fields_ = (
        ("ipv4_source", ctypes.c_uint8 * 16),
        ("ipv6_source", ctypes.c_uint8 * 16),
        ("captures_everything", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 7),
    )


class Address(ctypes.Structure):
    """Mirrors `struct address`, the key of `local_addresses`."""

    _fields_ = (("bytes", ctypes.c_uint8 * 16),)


class OwnAddress(ctypes.Structure):
    """Mirrors `struct own_address`, the key of `own_addresses`."""

    _fields_ = (("netns_cookie", ctypes.c_uint64), ("address", ctypes.c_uint8 * 16))


class Flow(ctypes.Structure):
    """Mirrors `struct flow`, the key of `pending_flows`."""

    _fields_ = (
        ("netns_cookie", ctypes.c_uint64),
        ("client_address", ctypes.c_uint8 * 16),
        ("client_port", ctypes.c_uint16),
        ("padding", ctypes.c_uint8 * 6),
    )


class OriginalDestination(ctypes.Structure):
    """Mirrors `struct original_destination`, the value of `pending_flows` and of `accepted_for`."""

    _fields_ = (
        ("address", ctypes.c_uint8 * 16),
        ("port", ctypes.c_uint16),
        ("padding", ctypes.c_uint8 * 2),
    )


class Connection(ctypes.Structure):
    """Mirrors `struct connection`, the value of `connected_to`."""

    _fields_ = (
        ("held_in", ctypes.c_uint64),
        ("address", ctypes.c_uint8 * 16),
        ("port", ctypes.c_uint16),
        ("padding", ctypes.c_uint8 * 6),
    )


class Newcomer(ctypes.Structure):
    """Mirrors `struct newcomer`, the value of `waiting`."""

    _fields_ = (("cgroup_id", ctypes.c_uint64), ("pid", ctypes.c_uint32), ("padding", ctypes.c_uint8 * 4))


class ProbeTarget(ctypes.Structure):
    """Mirrors `struct probe_target`, the key of `probe_targets`."""

    _fields_ = (
        ("netns_cookie", ctypes.c_uint64),
        ("address", ctypes.c_uint8 * 16),
        ("port", ctypes.c_uint16),
        ("padding", ctypes.c_uint8 * 6),
    )


class Ends(ctypes.Structure):
    """Mirrors `struct ends`, the key of `probe_flows` and `relayed`."""

    _fields_ = (
        ("client_address", ctypes.c_uint8 * 16),
        ("target_address", ctypes.c_uint8 * 16),
        ("client_port", ctypes.c_uint16),
        ("target_port", ctypes.c_uint16),
        ("padding", ctypes.c_uint8 * 4),
    )


def address_bytes(address: IPAddress) -> bytes:
    """An address as the programs keep it: 16 bytes, IPv4 as IPv4-mapped (RFC 4291 section 2.5.5.2)."""
    if isinstance(address, IPv4Address):
        return b"\x00" * 10 + b"\xff\xff" + address.packed
    return address.packed


def prefix_key(network: IPNetwork) -> Prefix:
    """The LPM key of a network, given as any `ipaddress` network."""
    extra = 96 if isinstance(network.network_address, IPv4Address) else 0
    key = Prefix(length=network.prefixlen + extra)
    key.address[:] = address_bytes(network.network_address)
    return key


def own_address_key(netns_cookie: int, address: IPAddress) -> OwnAddress:
    """The key under which `address` is known as local to a network namespace."""
    key = OwnAddress(netns_cookie=netns_cookie)
    key.address[:] = address_bytes(address)
    return key


def probe_target_key(netns_cookie: int, address: IPAddress, port: int) -> ProbeTarget:
    """The key under which a port of a workload is open to the kubelet, which is in the namespace `netns_cookie`."""
    key = ProbeTarget(netns_cookie=netns_cookie, port=port)
    key.address[:] = address_bytes(address)
    return key


def workload_entry(addresses: tuple[IPAddress, ...], *, captures_everything: bool = False) -> WorkloadEntry:
    """The entry of a workload: the first global address of each family is its source address."""
    entry = WorkloadEntry(captures_everything=captures_everything)
    ipv4 = next((a for a in addresses if isinstance(a, IPv4Address)), None)
    ipv6 = next((a for a in addresses if isinstance(a, IPv6Address) and not a.is_link_local), None)
    if ipv4 is not None:
        entry.ipv4_source[:] = address_bytes(ipv4)
    if ipv6 is not None:
        entry.ipv6_source[:] = address_bytes(ipv6)
    return entry
