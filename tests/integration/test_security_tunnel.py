"""What arrives on port 15008: nobody gets through it who is not a mesh proxy with exactly one valid identity."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
from typing import TYPE_CHECKING

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from interceptor.identity.authority import Authority
from tests.harness.node import running_node
from tests.harness.process import wait_until
from tests.harness.tcp import connected, serving
from tests.integration.hostile import (
    HONEST,
    NOTHING,
    TRUST_DOMAIN,
    Credential,
    authority_of,
    connect_request,
    credential,
    now,
    self_signed,
    tunnel,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.namespace import Namespace, Workload
    from tests.harness.node import Node, Record

pytestmark = [pytest.mark.netns, pytest.mark.bpf]

APPLICATION_PORT = 7077
_HOUR = dt.timedelta(hours=1)
_UNTRUSTED = Authority.create(TRUST_DOMAIN, now())


class Target:
    """A workload with an application that must never be reached, and somebody outside of the mesh."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.authority = authority_of(node)
        self.workload = node.workload("vault")
        self.outsider = node.plain_namespace("burglar")
        self.reached: list[tuple[str, int]] = []

    @contextlib.contextmanager
    def guarded(self) -> Iterator[int]:
        """Fails if the application sees anybody meanwhile; gives the place in the records where it began."""
        before = len(self.reached)
        yield self.node.mark()
        assert self.reached[before:] == []

    def refusal(self, reason: str, since: int) -> Record:
        """The record of the outsider's one connection."""
        return self.node.wait_for_record(
            lambda r: (
                r["direction"] == "inbound"
                and r["reason"] == reason
                and str(r["source_address"]).rpartition(":")[0].strip("[]")
                in (self.outsider.ipv4, self.outsider.ipv6)
            ),
            since=since,
        )


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """On a node that judges certificates alone: from where they are shown is the business of other tests."""
    with running_node(policy={"addressMismatch": "FLAG"}) as node:
        target = Target(node)
        listener = target.workload.listen(port=APPLICATION_PORT)
        with serving(listener, lambda sock: sock.sendall(b"the treasure")) as peers:
            target.reached = peers
            yield target


CERTIFICATES: dict[str, tuple[Callable[[Authority], Credential], str]] = {
    "none": (lambda _: NOTHING, "peer_without_certificate"),
    "another-authority": (lambda _: credential(_UNTRUSTED, HONEST), "peer_untrusted"),
    "without-intermediate": (
        lambda a: Credential((c := credential(a, HONEST)).key, c.chain[:1]),
        "peer_untrusted",
    ),
    "expired": (lambda a: credential(a, HONEST, begins=-2 * _HOUR, ends=-_HOUR), "peer_certificate_expired"),
    "not-yet-valid": (
        lambda a: credential(a, HONEST, begins=_HOUR, ends=2 * _HOUR),
        "peer_certificate_not_yet_valid",
    ),
    "two-names": (lambda a: credential(a, HONEST, f"{HONEST}2"), "peer_identity_invalid"),
    "no-name": (lambda a: credential(a, dns="client.default"), "peer_identity_invalid"),
    "nameless": (lambda a: credential(a), "peer_identity_invalid"),
    "not-a-spiffe-id": (
        lambda a: credential(a, "https://cluster.local/ns/default/sa/client"),
        "peer_identity_invalid",
    ),
    "another-path": (
        lambda a: credential(a, "spiffe://cluster.local/ns/default/sa/client/more"),
        "peer_identity_invalid",
    ),
    "percent-encoded": (
        lambda a: credential(a, "spiffe://cluster.local/ns/default/sa/%63lient"),
        "peer_identity_invalid",
    ),
    "embedded-nul": (lambda a: credential(a, f"{HONEST}\0.evil"), "peer_identity_invalid"),
    "control-character": (lambda a: credential(a, f"{HONEST}\n"), "peer_identity_invalid"),
    "another-domain": (
        lambda a: credential(a, "spiffe://other.domain/ns/default/sa/client"),
        "peer_untrusted",
    ),
    "may-sign": (lambda a: credential(a, HONEST, ca=True), "peer_identity_invalid"),
    "the-intermediate-itself": (
        lambda a: Credential(a.intermediate_key, (a.intermediate,)),
        "peer_untrusted",
    ),
    "for-servers-only": (
        lambda a: credential(a, HONEST, usages=[ExtendedKeyUsageOID.SERVER_AUTH]),
        "peer_untrusted",
    ),
    "for-clients-only": (
        lambda a: credential(a, HONEST, usages=[ExtendedKeyUsageOID.CLIENT_AUTH]),
        "peer_identity_invalid",
    ),
    "self-signed": (lambda _: self_signed(HONEST), "peer_untrusted"),
    "a-node's": (lambda a: credential(a, "spiffe://cluster.local/node/client"), "peer_identity_invalid"),
    "the-authority's": (lambda a: credential(a, "spiffe://cluster.local/authority"), "peer_identity_invalid"),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_tunnel_with_a_bad_certificate_is_refused_with_the_reason(target: Target, name: str) -> None:
    make, reason = CERTIFICATES[name]
    shown = make(target.authority)
    with (
        target.guarded() as since,
        contextlib.suppress(SSL.Error),
        tunnel(target.outsider, target.workload.ipv4, shown) as client,
    ):
        with contextlib.suppress(SSL.Error):
            client.send(connect_request(f"{target.workload.ipv4}:{APPLICATION_PORT}"))
        assert b"HTTP/1.1 200" not in client.receive()
    record = target.refusal(reason, since)
    assert record["verdict"] == "denial"
    assert record["source_identity"] is None
    assert record["detail"]
    assert "\n" not in record["detail"]


def test_tunnel_with_a_revoked_certificate_is_refused_and_others_of_its_identity_are_not(
    target: Target,
) -> None:
    stolen = credential(target.authority, HONEST)
    serial = f"{stolen.chain[0].serial_number:x}"
    assert is_answered(target, stolen)
    since = target.node.mark()
    target.node.cli("ca", "revoke", serial, "--why", "laptop was stolen").check()
    try:
        wait_until(lambda: not is_answered(target, stolen), "the revocation is followed")
        assert "laptop was stolen" in target.refusal("peer_revoked", since)["detail"]
        assert is_answered(target, credential(target.authority, HONEST))
    finally:
        target.node.cli("ca", "unrevoke", serial).check()


def is_answered(target: Target, shown: Credential) -> bool:
    """Whether a tunnel with this certificate leads to the application."""
    with contextlib.suppress(SSL.Error), tunnel(target.outsider, target.workload.ipv4, shown) as client:
        client.send(connect_request(f"{target.workload.ipv4}:{APPLICATION_PORT}"))
        return client.receive().endswith(b"the treasure")
    return False


def test_tunnel_with_an_honest_certificate_works(target: Target) -> None:
    """Or all the refusals above could have another cause."""
    shown = credential(target.authority, HONEST)
    with tunnel(target.outsider, target.workload.ipv4, shown) as client:
        client.send(connect_request(f"{target.workload.ipv4}:{APPLICATION_PORT}"))
        assert client.receive().endswith(b"\r\n\r\nthe treasure")


def _target(workload: Workload, port: int = APPLICATION_PORT) -> str:
    return f"{workload.ipv4}:{port}"


REQUESTS: dict[str, tuple[Callable[[Workload], bytes], str, bytes]] = {
    "get": (lambda w: f"GET / HTTP/1.1\r\nHost: {w.ipv4}\r\n\r\n".encode(), "not_a_tunnel_request", b"400"),
    "host-name": (lambda _: connect_request("vault:7077"), "not_a_tunnel_request", b"400"),
    "no-port": (lambda w: connect_request(w.ipv4), "not_a_tunnel_request", b"400"),
    "port-zero": (lambda w: connect_request(_target(w, 0)), "not_a_tunnel_request", b"400"),
    "leading-zeros": (lambda w: connect_request(f"{w.ipv4}:07077"), "not_a_tunnel_request", b"400"),
    "another-address": (lambda _: connect_request("198.51.100.9:7077"), "authority_mismatch", b"400"),
    "loopback": (lambda _: connect_request("127.0.0.1:7077"), "authority_mismatch", b"400"),
    "mapped-loopback": (lambda _: connect_request("[::ffff:127.0.0.1]:7077"), "authority_mismatch", b"400"),
    "other-family": (lambda w: connect_request(f"[{w.ipv6}]:7077"), "authority_mismatch", b"400"),
    "outbound-port": (lambda w: connect_request(_target(w, 15001)), "reserved_port", b"401"),
    "plaintext-port": (lambda w: connect_request(_target(w, 15006)), "reserved_port", b"401"),
    "tunnel-port": (lambda w: connect_request(_target(w, 15008)), "reserved_port", b"401"),
    "closed-port": (lambda w: connect_request(_target(w, 1)), "destination_refused", b"503"),
    "huge-headers": (
        lambda w: connect_request(_target(w), "X-Padding: " + "a" * 40_000),
        "not_a_tunnel_request",
        b"400",
    ),
    "many-headers": (
        lambda w: connect_request(_target(w), *(f"X-{n}: {n}" for n in range(5000))),
        "not_a_tunnel_request",
        b"400",
    ),
    "data-before-the-answer": (
        lambda w: connect_request(_target(w)) + b"smuggled",
        "not_a_tunnel_request",
        b"400",
    ),
    "with-a-body": (
        lambda w: connect_request(_target(w), "Content-Length: 8") + b"smuggled",
        "not_a_tunnel_request",
        b"400",
    ),
    "chunked": (
        lambda w: connect_request(_target(w), "Transfer-Encoding: chunked") + b"8\r\nsmuggled\r\n0\r\n\r\n",
        "not_a_tunnel_request",
        b"400",
    ),
    "http-2": (lambda _: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not_a_tunnel_request", b"400"),
    "binary": (lambda _: bytes(range(256)) * 8, "not_a_tunnel_request", b"400"),
    "second-host": (lambda w: connect_request(_target(w), "Host: other"), "not_a_tunnel_request", b"400"),
    "folded": (lambda w: connect_request(_target(w), "X: a", " b\r\n\x00"), "not_a_tunnel_request", b"400"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_request_that_is_no_honest_tunnel_request_is_refused(target: Target, name: str) -> None:
    make, reason, status = REQUESTS[name]
    with target.guarded() as since:
        with tunnel(target.outsider, target.workload.ipv4, credential(target.authority, HONEST)) as client:
            with contextlib.suppress(SSL.Error):  # the answer may come before all was sent
                client.send(make(target.workload))
            answer = client.receive()
        assert answer.startswith(b"HTTP/1.1 " + status) or (answer == b"" and name.endswith("-headers"))
        record = target.refusal(reason, since)
    assert record["source_identity"] == HONEST


@pytest.mark.parametrize("protocols", [(), (b"h2",), (b"h2", b"http/1.0")], ids=["none", "h2", "others"])
def test_tunnel_without_our_protocol_is_refused(target: Target, protocols: tuple[bytes, ...]) -> None:
    with target.guarded() as since, contextlib.suppress(SSL.Error):
        shown = credential(target.authority, HONEST)
        with tunnel(target.outsider, target.workload.ipv4, shown, protocols=protocols) as client:
            client.receive()
    target.refusal("not_a_tunnel_request", since)


def test_tls_1_2_is_refused(target: Target) -> None:
    with target.guarded() as since:
        shown = credential(target.authority, HONEST)
        with (
            pytest.raises(SSL.Error),
            tunnel(target.outsider, target.workload.ipv4, shown, version=SSL.TLS1_2_VERSION),
        ):
            pass
    assert "protocol" in target.refusal("handshake_failed", since)["detail"]


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 300, b"\0" * 70_000, os.urandom(5000)],
    ids=["http", "long-record", "zeros", "random"],
)
def test_bytes_that_are_no_tls_are_refused(target: Target, garbage: bytes) -> None:
    with (
        target.guarded() as since,
        contextlib.suppress(ConnectionError),
        target.outsider.connect((target.workload.ipv4, 15008)) as sock,
    ):
        sock.sendall(garbage)
        with contextlib.suppress(OSError):  # ENOTCONN, which is no ConnectionError, when it was reset already
            sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
    target.refusal("handshake_failed", since)


def test_peer_that_leaves_in_the_middle_of_its_handshake_is_recorded(target: Target) -> None:
    with target.guarded() as since, target.outsider.connect((target.workload.ipv6, 15008)) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00")
    assert "went away" in target.refusal("handshake_failed", since)["detail"]


@pytest.mark.parametrize("port", [15001, 15006, 15008])
def test_proxy_ports_are_of_no_use_from_inside(target: Target, port: int) -> None:
    """A workload's own processes get nowhere through the listeners on their loopback."""
    with target.guarded() as since:
        for address in ("127.0.0.1", "::1"):
            assert _answer(target.workload, address, port) == b""
        # To the outbound listener it is a connection of the workload like any other, from the workload's own address.
        own = (target.workload.ipv4, target.workload.ipv6) if port == 15001 else ("127.0.0.1", "::1")
        starts = (f"{own[0]}:", f"[{own[1]}]:")
        records = target.node.wait_for_records(
            lambda r: str(r["source_address"]).startswith(starts), 2, since=since
        )
        assert _answer(target.workload, target.workload.ipv4, port) == b""  # nobody listens on that
    reasons = {15001: "no_original_destination", 15006: "reserved_port", 15008: "handshake_failed"}
    assert {record["reason"] for record in records} == {reasons[port]}


@pytest.mark.parametrize("port", [15001, 15006])
def test_proxy_ports_are_of_no_use_from_outside(target: Target, port: int) -> None:
    with target.guarded() as since:
        for address in (target.workload.ipv4, target.workload.ipv6):
            assert _answer(target.outsider, address, port) == b""
        records = target.node.wait_for_records(
            lambda r: str(r["destination_address"]).endswith(f":{port}"), 2, since=since
        )
    assert {record["reason"] for record in records} == {"reserved_port"}


def _answer(source: Namespace, address: str, port: int) -> bytes:
    """What comes back to a request there; nothing, if it is refused, at whatever moment."""
    with contextlib.suppress(ConnectionError), source.connect((address, port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return sock.recv(4096)
    return b""


def test_client_address_is_the_connections_own_and_not_what_it_says(target: Target) -> None:
    """Forwarded headers are for the record of the other side at most."""
    shown = credential(target.authority, HONEST)
    since = target.node.mark()
    with tunnel(target.outsider, target.workload.ipv4, shown) as client:
        client.send(connect_request(_target(target.workload), 'Forwarded: for="198.51.100.1:1"'))
        assert client.receive().endswith(b"the treasure")
    assert target.reached[-1][0] == target.outsider.ipv4
    record = target.node.wait_for_record(lambda r: r["source_identity"] == HONEST, since=since)
    assert record["source_workload"] is None  # the identity is proven; whose address it is, is not


def test_workload_is_served_after_all_this(target: Target) -> None:
    friend = target.node.workload("friend")
    with connected(friend, target.workload) as (near, far):
        near.sendall(b"hello")
        assert far.recv(5) == b"hello"
    friend.close()


@pytest.fixture
def narrow(make_node: Callable[..., Node]) -> tuple[Node, Workload, Namespace]:
    node = make_node(limits={"handshakeTimeout": "1s", "pendingHandshakes": 20})
    return node, node.workload("vault"), node.plain_namespace("burglar")


def test_half_open_handshakes_are_bounded_and_time_out(narrow: tuple[Node, Workload, Namespace]) -> None:
    node, vault, burglar = narrow
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(burglar.connect((vault.ipv4, 15008)))
            sock.sendall(b"\x16")
        node.wait_for_records(lambda r: r["reason"] == "too_many_connections", 80)
        node.wait_for_records(lambda r: r["reason"] == "handshake_timeout", 20)
    with tunnel(burglar, vault.ipv4, credential(authority_of(node), HONEST)) as client:
        client.send(b"CONNECT")  # identity proven, and then nothing
        assert client.receive() == b""
    node.wait_for_record(lambda r: r["reason"] == "handshake_timeout" and r["source_identity"] == HONEST)
    friend = node.workload("friend")
    with connected(friend, vault) as (near, far):
        near.sendall(b"hello")
        assert far.recv(5) == b"hello"
