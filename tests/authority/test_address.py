"""Where an authority is: what counts as an address, as a name, and as neither."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.authority.address import HostEndpoint, parse_authority_address
from interceptor.errors import InvalidInput
from interceptor.workload import Endpoint


@pytest.mark.parametrize("text", ["10.0.0.1:15012", "[fd00::1]:15012"])
def test_address_is_an_address(text):
    assert parse_authority_address(text) == Endpoint.parse(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("ca.example.org:15012", "ca.example.org"),
        ("CA.Example.org.:15012", "ca.example.org."),
        ("localhost:15012", "localhost"),
        ("1and1.example:15012", "1and1.example"),
        ("a-b.example:15012", "a-b.example"),
    ],
)
def test_name_is_held_in_lower_case_and_comes_back(text, host):
    found = parse_authority_address(text)
    assert found == HostEndpoint(host, 15012)
    assert parse_authority_address(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ca.example.org",
        "ca.example.org:",
        "ca.example.org:0",
        "ca.example.org:65536",
        "ca.example.org:015",
        ":15012",
        "10.0.0.256:15012",
        "10.1:15012",
        "10:15012",
        "-ca.example:15012",
        "ca-.example:15012",
        "ca..example:15012",
        "ca_.example:15012",
        "ca.example\n:15012",
        "fd00::1:15012",
        "spiffe://ca.example:15012",
        f"{'a' * 64}.example:15012",
        f"{'a.' * 127}:15012",
    ],
)
def test_text_that_is_neither_is_refused_with_an_example(text):
    with pytest.raises(InvalidInput, match=r"expected one such as ca\.example\.org:15012"):
        parse_authority_address(text)


@given(st.text(max_size=40))
def test_any_text_is_a_place_or_invalid_input(text):
    try:
        found = parse_authority_address(text)
    except InvalidInput:
        return
    assert parse_authority_address(str(found)) == found
