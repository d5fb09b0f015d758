"""Each form takes what it should, and says what would be right."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.config import values
from interceptor.errors import InvalidInput
from interceptor.workload import Endpoint

DAY = timedelta(hours=24)
duration = partial(values.parse_duration, shortest=timedelta(seconds=1), longest=DAY)
count = partial(values.parse_count, smallest=1, largest=100)
FORMS: list[Callable[[str], object]] = [
    values.parse_node,
    values.parse_interface_name,
    values.parse_mesh_cidr,
    values.parse_bridge_ipv4,
    values.parse_bridge_ipv6,
    values.parse_path,
    values.parse_run_dir,
    values.parse_listen_address,
    duration,
    count,
]


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.parse_node, "Node_1.example", "Node_1.example"),
        (values.parse_interface_name, "interceptor0.123"[:15], "interceptor0.12"),
        (values.parse_mesh_cidr, "10.0.0.0/8", IPv4Network("10.0.0.0/8")),
        (values.parse_mesh_cidr, "fd00::/8", IPv6Network("fd00::/8")),
        (values.parse_bridge_ipv4, "10.1.0.1/30", IPv4Interface("10.1.0.1/30")),
        (values.parse_bridge_ipv6, "fd00::1/126", IPv6Interface("fd00::1/126")),
        (values.parse_path, "/a b/ü", Path("/a b/ü")),
        (values.parse_run_dir, "/" + "r" * 79, Path("/" + "r" * 79)),
        (values.parse_listen_address, "[::1]:15020", Endpoint.parse("[::1]:15020")),
        (duration, "1000ms", timedelta(seconds=1)),
        (duration, "90s", timedelta(seconds=90)),
        (duration, "5m", timedelta(minutes=5)),
        (duration, "24h", DAY),
        (count, "1", 1),
        (count, "100", 100),
    ],
)
def test_value_valid_text_parses(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (values.parse_node, "", "is not a node name"),
        (values.parse_node, "a b", "is not a node name"),
        (values.parse_node, "n" * 254, "is not a node name"),
        (values.parse_interface_name, "interceptor-mesh", "is not an interface name"),
        (values.parse_interface_name, "..", "is not an interface name"),
        (values.parse_interface_name, "a/b", "is not an interface name"),
        (values.parse_mesh_cidr, "10.0.0.1", "is not a CIDR"),
        (values.parse_mesh_cidr, "10.0.0.0/33", "is not a CIDR"),
        (values.parse_mesh_cidr, "fd00::%eth0/64", "is not a CIDR"),
        (values.parse_mesh_cidr, "10.0.0.1/8", r"did you mean 10\.0\.0\.0/8\?"),
        (values.parse_mesh_cidr, "0.0.0.0/0", "contains loopback addresses"),
        (values.parse_mesh_cidr, "127.1.0.0/16", "contains loopback addresses"),
        (values.parse_mesh_cidr, "::/0", "contains loopback addresses"),
        (values.parse_mesh_cidr, "169.254.0.0/16", "contains link-local addresses"),
        (values.parse_mesh_cidr, "fe80::/64", "contains link-local addresses"),
        (values.parse_mesh_cidr, "224.0.0.0/8", "contains multicast addresses"),
        (values.parse_mesh_cidr, "ff02::/16", "contains multicast addresses"),
        (values.parse_mesh_cidr, "::ffff:10.0.0.0/104", "contains IPv4-mapped addresses"),
        (values.parse_bridge_ipv4, "10.0.0.1/x", "is not an address with a prefix length"),
        (values.parse_bridge_ipv4, "10.0.0.1", "leaves no address for workloads"),
        (values.parse_bridge_ipv4, "10.0.0.0/16", r"is the network's own address .*, use 10\.0\.0\.1"),
        (values.parse_bridge_ipv4, "10.0.255.255/16", "or its broadcast address"),
        (values.parse_bridge_ipv6, "10.0.0.1/16", "is not an address with a prefix length"),
        (values.parse_bridge_ipv6, "fd00::1/127", "leaves no address for workloads"),
        (values.parse_bridge_ipv6, "fd00::/64", "is the network's own address, use fd00::1"),
        (values.parse_bridge_ipv6, "fd00::1%eth0/64", "has a zone"),
        (values.parse_path, "", "is not an absolute path"),
        (values.parse_path, "var/lib", "is not an absolute path"),
        (values.parse_path, "/var/../etc", "is not an absolute path"),
        (values.parse_path, "/var\n", "is not an absolute path"),
        (values.parse_path, "/" + "p" * 4095, "is longer than 4095 bytes"),
        (values.parse_run_dir, "/" + "r" * 80, "too long for the sockets"),
        (values.parse_listen_address, "15020", "is not an address and port"),
        (values.parse_listen_address, "127.0.0.1:15008", "port 15008 is the proxy's own"),
        (duration, "10", "is not a duration, expected one such as 10s"),
        (duration, "1.5s", "is not a duration"),
        (duration, "-1s", "is not a duration"),
        (duration, "010s", "is not a duration"),
        (duration, "999ms", "expected 1s to 86400s"),
        (duration, "999999999h", "expected 1s to 86400s"),
        (count, "ten", "is not a whole number"),
        (count, "0x10", "is not a whole number"),
        (count, "010", "is not a whole number"),
        (count, "1_0", "is not a whole number"),
        (count, "0", "expected 1 to 100"),
        (count, "101", "expected 1 to 100"),
    ],
)
def test_value_invalid_text_is_refused(parse: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(text)


@given(
    st.sampled_from(FORMS),
    st.one_of(st.text(st.characters(codec=None)), st.text(alphabet="0123456789abcdef.:/[]%hms-_")),
)
def test_value_any_text_is_a_value_or_invalid_input(parse: Callable[[str], object], text: str) -> None:
    message = "one line"
    try:
        parse(text)
    except InvalidInput as refused:
        message = str(refused)
    assert len(message.splitlines()) == 1
