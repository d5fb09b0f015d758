"""The tunnel's handshake: both roles joined by a pretend wire, and what a hostile peer may send to either."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interceptor.protocol.connect_tunnel import (
    MAX_HEADER_BYTES,
    Status,
    TunnelAnswer,
    TunnelClient,
    TunnelProtocolError,
    TunnelRequest,
    TunnelServer,
    is_target,
)
from interceptor.workload import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from interceptor.workload import IPAddress

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SOURCE = Endpoint.parse("10.0.0.1:46238")
TARGETS = [Endpoint.parse("10.0.0.2:8080"), Endpoint.parse("[fd00::2]:1"), Endpoint.parse("10.0.0.2:65535")]


class ConnectionPair:
    """A client and a server, joined so that each sees what the other sends in pieces of the test's choice."""

    def __init__(self) -> None:
        self.client, self.server = TunnelClient(), TunnelServer()

    def ask(self, target: Endpoint, pieces: int | None = None) -> TunnelRequest:
        data = self.client.request(target, source=SOURCE, trace_id=TRACE, span_id=SPAN)
        request = _feed(self.server.receive, data, pieces)
        assert isinstance(request, TunnelRequest)
        return request

    def answer(self, status: Status, pieces: int | None = None) -> TunnelAnswer:
        answer = _feed(self.client.receive, self.server.answer(status), pieces)
        assert isinstance(answer, TunnelAnswer)
        return answer


def _feed(receive: Callable[[bytes], object], data: bytes, split: int | None) -> object:
    """All at once, or in two pieces: nothing may come of the first."""
    if split is None:
        return receive(data)
    assert receive(data[:split]) is None
    return receive(data[split:])


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("status", Status)
def test_both_sides_understand_each_other(target: Endpoint, status: Status) -> None:
    pair = ConnectionPair()
    assert pair.ask(target) == TunnelRequest(target, TRACE)
    assert pair.answer(status) == TunnelAnswer(status, b"")


def test_request_may_be_split_anywhere() -> None:
    whole = TunnelClient().request(TARGETS[1], source=SOURCE, trace_id=TRACE, span_id=SPAN)
    for split in range(1, len(whole)):
        assert ConnectionPair().ask(TARGETS[1], split) == TunnelRequest(TARGETS[1], TRACE)


@pytest.mark.parametrize("status", Status)
def test_answer_may_be_split_anywhere(status: Status) -> None:
    measured = ConnectionPair()
    measured.ask(TARGETS[0])
    end_of_head = measured.server.answer(status).index(b"\r\n\r\n") + 4
    for split in range(1, end_of_head):
        pair = ConnectionPair()
        pair.ask(TARGETS[0])
        assert pair.answer(status, split).status == status


def test_bytes_may_come_one_by_one() -> None:
    pair = ConnectionPair()
    data = pair.client.request(TARGETS[0], source=None, trace_id=TRACE, span_id=SPAN)
    results = [pair.server.receive(data[i : i + 1]) for i in range(len(data))]
    assert results == [None] * (len(data) - 1) + [TunnelRequest(TARGETS[0], TRACE)]


def test_request_is_what_other_programs_expect() -> None:
    """RFC 9110 section 9.3.6, RFC 7239 and W3C Trace Context."""
    data = TunnelClient().request(TARGETS[1], source=SOURCE, trace_id=TRACE, span_id=SPAN)
    assert data == (
        b"CONNECT [fd00::2]:1 HTTP/1.1\r\nHost: [fd00::2]:1\r\n"
        b"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n"
        b'Forwarded: for="10.0.0.1:46238"\r\n\r\n'
    )


def test_request_without_source_does_not_name_one() -> None:
    data = TunnelClient().request(TARGETS[0], source=None, trace_id=TRACE, span_id=SPAN)
    assert b"Forwarded" not in data


def test_refusal_ends_the_connection() -> None:
    pair = ConnectionPair()
    pair.ask(TARGETS[0])
    assert b"Connection: close\r\n" in pair.server.answer(Status.DENIED)


# What a client may send.

HEAD = b"CONNECT 10.0.0.2:80 HTTP/1.1\r\nHost: 10.0.0.2:80\r\n"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "the method is GET, not CONNECT"),
        (b"connect 10.0.0.2:80 HTTP/1.1\r\nHost: x\r\n\r\n", "the method is connect"),
        (
            b"M" * 100 + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
            "the method is MMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMM, not",
        ),
        (b"CONNECT web:80 HTTP/1.1\r\nHost: x\r\n\r\n", "not an address and port"),
        (b"CONNECT 10.0.0.2 HTTP/1.1\r\nHost: x\r\n\r\n", "not an address and port"),
        (b"CONNECT 10.0.0.2:0 HTTP/1.1\r\nHost: x\r\n\r\n", "not an address and port"),
        (b"CONNECT 10.0.0.2:99999 HTTP/1.1\r\nHost: x\r\n\r\n", "not an address and port"),
        (b"CONNECT [fe80::1%25eth0]:80 HTTP/1.1\r\nHost: x\r\n\r\n", "not an address and port"),
        (b"CONNECT \xc3\xa4:80 HTTP/1.1\r\nHost: x\r\n\r\n", "not"),
        (b"CONNECT 10.0.0.2:80 HTTP/1.1\r\n\r\n", "the request is not HTTP: Missing mandatory Host"),
        (HEAD + b"Host: other\r\n\r\n", "the request is not HTTP"),
        (HEAD + b"Content-Length: 5\r\n\r\nhello", "the request has a body"),
        (HEAD + b"Content-Length: 5\r\n\r\n", "the request has a body"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", "the request has a body"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "the request is not HTTP"),
        (HEAD + b"\r\nGET / HTTP/1.1\r\n\r\n", "data was sent before the answer"),
        (HEAD + b"\r\nx", "data was sent before the answer"),
        (HEAD + b"Bad Header: x\r\n\r\n", "the request is not HTTP"),
        (HEAD + b"A: x\x00y\r\n\r\n", "the request is not HTTP"),
        (HEAD + b" folded: x\r\n\tmore\r\nA: " + b"x" * (2 * MAX_HEADER_BYTES), "the request is not HTTP"),
        (b"x" * (MAX_HEADER_BYTES + 1), "the request is not HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "the request is not HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "the method is PRI, not CONNECT"),
        (b"", "no request came"),
    ],
)
def test_what_is_no_tunnel_request_is_refused(data: bytes, complaint: str) -> None:
    server = TunnelServer()
    with pytest.raises(TunnelProtocolError, match=complaint.replace("(", "\\(")) as caught:
        server.receive(data)
    assert "\n" not in str(caught.value)
    answer = server.answer(Status.NOT_A_TUNNEL_REQUEST)
    assert answer.startswith(b"HTTP/1.1 400 ") or (data, answer) == (b"", b"")


def test_client_that_ends_in_the_middle_is_told_apart_and_may_be_answered() -> None:
    server = TunnelServer()
    assert server.receive(HEAD) is None
    with pytest.raises(TunnelProtocolError, match="the request is not HTTP"):
        server.receive(b"")
    server.answer(Status.NOT_A_TUNNEL_REQUEST)


def test_nobody_is_answered_who_ended_the_connection() -> None:
    server = TunnelServer()
    with pytest.raises(TunnelProtocolError):
        server.receive(b"")
    assert server.answer(Status.NOT_A_TUNNEL_REQUEST) == b""


def test_empty_body_is_no_body() -> None:
    assert TunnelServer().receive(HEAD + b"Content-Length: 0\r\n\r\n") is not None


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Traceparent: \r\n",
        b"Traceparent: 00-short-b7ad6b7169203331-00\r\n",
        b"Traceparent: 00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-00\r\n",
        b"Traceparent: 0af7651916cd43dd8448eb211c80319c\r\n",
        b"Traceparent: 00-\xff\xfe7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n",
        b"Traceparent: 00-" + b"a" * 1000 + b"-b7ad6b7169203331-00\r\n",
    ],
)
def test_trace_that_is_none_is_left_out(header: bytes) -> None:
    request = TunnelServer().receive(HEAD + header + b"\r\n")
    assert request == TunnelRequest(Endpoint.parse("10.0.0.2:80"), None)


def test_target_is_the_address_that_was_reached() -> None:
    request = TunnelRequest(Endpoint.parse("10.0.0.2:80"), None)
    assert is_target(request, ip_address("10.0.0.2"))
    assert not is_target(request, ip_address("10.0.0.3"))
    assert not is_target(request, ip_address("fd00::2"))


# What a server may answer.


def asked() -> TunnelClient:
    client = TunnelClient()
    client.request(TARGETS[0], source=None, trace_id=TRACE, span_id=SPAN)
    return client


def test_first_bytes_that_come_with_the_answer_are_kept() -> None:
    answer = asked().receive(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n")
    assert answer == TunnelAnswer(200, b"SSH-2.0-x\r\n")


def test_body_of_a_refusal_is_not_the_applications() -> None:
    answer = asked().receive(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nnope")
    assert answer == TunnelAnswer(403, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 2 * MAX_HEADER_BYTES,
        b"\x15\x03\x03\x00\x02\x02\x28\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(TunnelProtocolError):
        asked().receive(data)


def test_server_that_ends_in_the_middle_of_its_answer_is_refused() -> None:
    client = asked()
    assert client.receive(b"HTTP/1.1 200 O") is None
    with pytest.raises(TunnelProtocolError, match="the answer is not HTTP"):
        client.receive(b"")


# Whatever comes: a value, or TunnelProtocolError, and nothing else.

_pieces = st.lists(
    st.one_of(
        st.binary(max_size=64),
        st.sampled_from(
            [
                HEAD,
                b"\r\n",
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 ",
                b"CONNECT ",
                b"Content-Length: 3\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Traceparent: 00-",
                b"Host: x\r\n",
                b"x" * 9000,
            ]
        ),
    ),
    max_size=12,
)


def feed(receive: Callable[[bytes], object], pieces: list[bytes]) -> TunnelProtocolError | None:
    """Until something comes of it; anything but a value or this error is a fault."""
    try:
        for piece in pieces:
            if receive(piece) is not None:
                break
    except TunnelProtocolError as error:
        return error
    return None


@settings(max_examples=300, deadline=None)
@given(pieces=_pieces)
def test_server_survives_anything(pieces: list[bytes]) -> None:
    server = TunnelServer()
    error = feed(server.receive, pieces)
    if error is not None:
        assert "\n" not in str(error)
        server.answer(Status.NOT_A_TUNNEL_REQUEST)


@settings(max_examples=300, deadline=None)
@given(pieces=_pieces)
def test_client_survives_anything(pieces: list[bytes]) -> None:
    assert "\n" not in str(feed(asked().receive, pieces))


@settings(max_examples=200, deadline=None)
@given(
    address=st.ip_addresses(),
    port=st.integers(1, 65535),
    split=st.integers(1, 60),
)
def test_every_endpoint_survives_the_wire(address: IPAddress, port: int, split: int) -> None:
    target = Endpoint(address, port)
    if "%" not in str(target):
        assert ConnectionPair().ask(target, split).target == target
