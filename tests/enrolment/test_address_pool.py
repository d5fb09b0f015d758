"""Addresses on the node's bridge: the lowest free one, the same host number in both families."""

from ipaddress import IPv4Interface, IPv6Interface, ip_address

import pytest

from interceptor.enrolment import address_pool
from interceptor.enrolment.address_pool import next_addresses
from interceptor.errors import EnrolmentError

BRIDGE4, BRIDGE6 = IPv4Interface("10.215.0.1/16"), IPv6Interface("fd15:8::1/64")


def test_first_workload_gets_the_number_after_the_bridge() -> None:
    assert next_addresses(BRIDGE4, BRIDGE6, ()) == (
        IPv4Interface("10.215.0.2/16"),
        IPv6Interface("fd15:8::2/64"),
    )


@pytest.mark.parametrize(
    "taken",
    [("10.215.0.2",), ("fd15:8::2",), ("10.215.0.2", "fd15:8::2"), ("10.215.0.2", "10.215.0.1", "192.0.2.1")],
)
def test_number_that_is_taken_in_either_family_is_passed_over(taken: tuple[str, ...]) -> None:
    ipv4, ipv6 = next_addresses(BRIDGE4, BRIDGE6, {ip_address(address) for address in taken})
    assert (str(ipv4), str(ipv6)) == ("10.215.0.3/16", "fd15:8::3/64")


def test_number_that_was_given_back_is_used_again() -> None:
    taken = {ip_address(f"10.215.0.{number}") for number in (2, 4)}
    assert next_addresses(BRIDGE4, BRIDGE6, taken)[0].ip == ip_address("10.215.0.3")


def test_bridge_may_have_any_number_of_its_network() -> None:
    ipv4, _ = next_addresses(IPv4Interface("10.0.0.3/29"), BRIDGE6, ())
    assert str(ipv4) == "10.0.0.2/29"  # 1 is the IPv6 bridge's
    ipv4, ipv6 = next_addresses(IPv4Interface("10.0.0.9/28"), IPv6Interface("fd00::9/64"), ())
    assert (str(ipv4), str(ipv6)) == ("10.0.0.1/28", "fd00::1/64")


def test_network_address_and_broadcast_are_never_given() -> None:
    bridge4, bridge6 = IPv4Interface("10.0.0.1/29"), IPv6Interface("fd00::1/64")
    given: list[tuple[IPv4Interface, IPv6Interface]] = []
    for _ in range(5):
        given.append(next_addresses(bridge4, bridge6, {one.ip for pair in given for one in pair}))
    with pytest.raises(EnrolmentError, match=r"no address is left in 10\.0\.0\.0/29 and fd00::/64: withdraw"):
        next_addresses(bridge4, bridge6, {one.ip for pair in given for one in pair})
    assert [str(ipv4.ip) for ipv4, _ in given] == [f"10.0.0.{number}" for number in range(2, 7)]
    assert [str(ipv6.ip) for _, ipv6 in given] == [f"fd00::{number}" for number in range(2, 7)]


def test_smaller_network_decides_when_it_is_full() -> None:
    bridge6 = IPv6Interface("fd00::1/126")
    taken = [ip_address("fd00::2"), ip_address("fd00::3")]
    with pytest.raises(EnrolmentError, match="no address is left"):
        next_addresses(BRIDGE4, bridge6, taken)


def test_number_of_workloads_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_pool, "MAX_HOSTS", 2)
    with pytest.raises(EnrolmentError):
        next_addresses(BRIDGE4, BRIDGE6, [ip_address("10.215.0.2")])
