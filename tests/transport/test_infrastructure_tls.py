"""TLS between nodes and the authority: what is forgiven in the handshake, and what never is."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from cryptography.x509.oid import ExtendedKeyUsageOID

from interceptor.errors import PeerRejected
from interceptor.policy.verdict import Reason
from interceptor.transport.infrastructure_tls import authority_context, node_context, unverified_context
from interceptor.transport.tls import TlsStream
from tests.proxy import certificates
from tests.proxy.certificates import Proof, forge, hostile, svid, tls_context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography import x509
    from OpenSSL import SSL

ROOTS = certificates.bundles().roots
FORGIVEN = {
    "expired": Reason.PEER_CERTIFICATE_EXPIRED,
    "not yet valid": Reason.PEER_CERTIFICATE_NOT_YET_VALID,
}


@contextmanager
def streams(client: SSL.Context, server: SSL.Context) -> Iterator[tuple[TlsStream, TlsStream]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as near,
        listening.accept()[0] as far,
    ):
        near.setblocking(False)
        far.setblocking(False)
        yield TlsStream(client, near, server_side=False), TlsStream(server, far, server_side=True)


async def shake_hands(client: TlsStream, server: TlsStream) -> tuple[Exception | None, Exception | None]:
    """What each side made of the other; None when it was satisfied."""
    outcome: dict[TlsStream, Exception | None] = {}

    async def one(stream: TlsStream) -> None:
        try:
            await stream.handshake()
        except Exception as error:
            outcome[stream] = error
            stream.close()
        else:
            outcome[stream] = None

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, client)
            nursery.start_soon(one, server)
    return outcome[client], outcome[server]


def server_context() -> SSL.Context:
    return authority_context(svid("authority"), ROOTS)


def showing(proof: Proof) -> SSL.Context:
    return tls_context(proof)


async def test_client_without_certificate_may_come_in_and_is_known_to_have_none() -> None:
    with streams(node_context(None, ROOTS), server_context()) as (client, server):
        assert await shake_hands(client, server) == (None, None)
        assert server.verified_chain() == ()
        assert client.verified_chain()[0] == svid("authority").leaf


@pytest.mark.parametrize("flaw", FORGIVEN)
async def test_clients_time_fault_is_left_for_the_answer(flaw: str) -> None:
    proof, _, _ = hostile("node")[flaw]
    with streams(showing(proof), server_context()) as (client, server):
        assert await shake_hands(client, server) == (None, None)
        chain = server.verified_chain()
    assert chain[0] == proof.chain[0]
    with pytest.raises(PeerRejected) as caught:
        certificates.bundles().identify(chain, certificates.now())
    assert caught.value.reason == FORGIVEN[flaw]


@pytest.mark.parametrize("flaw", ["foreign authority", "foreign domain"])
async def test_clients_other_faults_end_the_handshake(flaw: str) -> None:
    proof, reason, detail = hostile("node")[flaw]
    with streams(showing(proof), server_context()) as (client, server):
        _, refusal = await shake_hands(client, server)
    assert isinstance(refusal, PeerRejected)
    assert refusal.reason == reason
    assert detail in str(refusal)


@pytest.mark.parametrize("usage", [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CODE_SIGNING])
async def test_client_with_a_certificate_for_other_uses_ends_the_handshake(
    usage: x509.ObjectIdentifier,
) -> None:
    with streams(showing(forge(usages=[usage])), server_context()) as (client, server):
        _, refusal = await shake_hands(client, server)
    assert isinstance(refusal, PeerRejected)
    assert "extended key usage" in str(refusal)


@pytest.mark.parametrize("flaw", FORGIVEN)
async def test_servers_time_fault_is_left_for_the_client_to_name(flaw: str) -> None:
    proof, _, _ = hostile("authority")[flaw]
    with streams(node_context(svid("node"), ROOTS), showing(proof)) as (client, server):
        assert await shake_hands(client, server) == (None, None)
        assert client.verified_chain()[0] == proof.chain[0]


async def test_server_of_another_authority_is_refused_by_the_client() -> None:
    proof, reason, _ = hostile("authority")["foreign authority"]
    with streams(node_context(svid("node"), ROOTS), showing(proof)) as (client, server):
        refusal, _ = await shake_hands(client, server)
    assert isinstance(refusal, PeerRejected)
    assert refusal.reason == reason


async def test_unverified_client_sees_what_is_shown() -> None:
    proof, _, _ = hostile("authority")["foreign authority"]
    with streams(unverified_context(), showing(proof)) as (client, server):
        assert await shake_hands(client, server) == (None, None)
        assert client.presented_chain() == proof.chain
