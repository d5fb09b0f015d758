"""Endpoints print and parse back, and nothing but an endpoint parses."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interceptor.errors import InvalidInput
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.workload import Endpoint, Workload, WorkloadKey, normalised_address, parse_address

IDENTITY = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/web-account")


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("10.0.0.1:80", Endpoint(IPv4Address("10.0.0.1"), 80)),
        ("[fd00::1]:65535", Endpoint(IPv6Address("fd00::1"), 65535)),
        ("[::ffff:10.0.0.1]:1", Endpoint(IPv4Address("10.0.0.1"), 1)),
    ],
)
def test_endpoint_valid_text_parses(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:080",
        "10.0.0.1:65536",
        "10.0.0.1:+80",
        "10.0.0.1: 80",
        "10.0.0.1:80\n",
        "10.0.0.1:٣",
        "010.0.0.1:80",
        "10.0.0:80",
        "[10.0.0.1]:80",
        "fd00::1:80",
        "[fd00::1]",
        "[fd00::1]80",
        "[fe80::1%eth0]:80",
        "[]:80",
        "localhost:80",
    ],
)
def test_endpoint_invalid_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Endpoint.parse(text)


@given(st.ip_addresses(), st.integers(1, 65535))
@example(ip_address("::ffff:127.0.0.1"), 1)
def test_endpoint_printed_parses_to_itself(address: IPv4Address | IPv6Address, port: int) -> None:
    endpoint = Endpoint(address, port)
    assert Endpoint.parse(str(endpoint)) == endpoint
    assert endpoint.address == normalised_address(address)


@given(st.one_of(st.text(), st.text(alphabet="0123456789abcdef.:[]%٣")))
def test_endpoint_any_text_is_a_value_or_invalid_input(text: str) -> None:
    message = "one line"
    try:
        endpoint = Endpoint.parse(text)
    except InvalidInput as refused:
        message = str(refused)
    else:
        assert Endpoint.parse(str(endpoint)) == endpoint
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_endpoint_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 65535"):
        Endpoint(IPv4Address("10.0.0.1"), port)


def test_address_mapped_is_normalised() -> None:
    assert parse_address("::ffff:10.0.0.1") == IPv4Address("10.0.0.1")
    assert parse_address("fd00::1") == IPv6Address("fd00::1")


@pytest.mark.parametrize("text", ["", "10.0.0.1:80", "[fd00::1]", "web", "fe80::1%eth0"])
def test_address_invalid_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_address(text)


def test_workload_properties_come_from_key_and_identity() -> None:
    workload = Workload(WorkloadKey("shop", "web"), IDENTITY, (), "node-1")
    assert (workload.namespace, workload.name, workload.service_account) == ("shop", "web", "web-account")
    assert str(workload.key) == "shop/web"


def test_workload_identity_of_other_namespace_is_refused() -> None:
    with pytest.raises(InvalidInput, match="whose namespace is another"):
        Workload(WorkloadKey("bank", "web"), IDENTITY, (), "node-1")


@pytest.mark.parametrize(
    ("namespace", "name"), [("", "web"), ("shop", "Web"), ("shop", "a/b"), ("a b", "web")]
)
def test_workload_key_invalid_name_is_refused(namespace: str, name: str) -> None:
    with pytest.raises(InvalidInput):
        WorkloadKey(namespace, name)


def test_workload_keys_sort_by_namespace_then_name() -> None:
    keys = [WorkloadKey("b", "a"), WorkloadKey("a", "z"), WorkloadKey("a", "b")]
    assert [str(key) for key in sorted(keys)] == ["a/b", "a/z", "b/a"]
