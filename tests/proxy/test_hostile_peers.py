"""Certificates that the other end of a tunnel must not get by with, beyond those of `certificates.hostile`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from interceptor.errors import PeerRejected
from interceptor.identity.revocation import Revocation, RevocationKind, RevocationList
from interceptor.identity.trust_bundle import TrustBundles
from interceptor.policy.verdict import Reason
from interceptor.proxy.snapshot import Snapshot
from interceptor.transport.streams import StreamBroken
from interceptor.transport.tls import tls_contexts
from interceptor.workload import Endpoint
from tests.proxy import certificates
from tests.proxy.certificates import Proof, forge, new_svid, svid, tls_context
from tests.proxy.mesh import DESTINATION_ADDRESS, Mesh, is_reset
from tests.proxy.peers import receive_until_end, request, send, serve_tunnels, tunnel_client

if TYPE_CHECKING:
    import trio

    from interceptor.telemetry.connection_record import ConnectionRecord
    from interceptor.transport.tls import TlsStream
    from tests.proxy.mesh import Side

APPLICATION = Endpoint(DESTINATION_ADDRESS, 80)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
WRONG_USE = (Reason.PEER_UNTRUSTED, "its extended key usage is not for this")  # OpenSSL sees it
ONE_USE = (Reason.PEER_IDENTITY_INVALID, "without both serverAuth and clientAuth")  # we see it


async def record_of_inbound(mesh: Mesh, nursery: trio.Nursery, shown: Proof) -> ConnectionRecord:
    """What the destination recorded of a client that shows this."""
    mesh.destination.start(nursery)
    with tunnel_client(tls_context(shown), mesh.destination) as stream, suppress(StreamBroken, PeerRejected):
        await stream.handshake()
        await send(stream, request(APPLICATION))
        assert await receive_until_end(stream) == b"never"
    return await denied(mesh.destination)


async def record_of_outbound(mesh: Mesh, nursery: trio.Nursery, shown: Proof) -> ConnectionRecord:
    """What the source recorded of a server that shows this."""

    async def behaviour(stream: TlsStream) -> None:
        with suppress(StreamBroken, PeerRejected):
            await stream.handshake()
            assert await receive_until_end(stream) == b"never"

    mesh.source.start(nursery)
    mesh.aim = APPLICATION
    nursery.start_soon(serve_tunnels, mesh.destination, tls_context(shown), behaviour)
    async with await mesh.connect() as client:
        assert await is_reset(client)
    return await denied(mesh.source)


async def denied(side: Side) -> ConnectionRecord:
    record = await side.recorder.only_record()
    assert record.verdict == "denial", record.reason
    assert record.bytes_sent == record.bytes_received == 0
    assert side.recorder.opened_records == []
    return record


@pytest.mark.parametrize(("usage", "expected"), [(SERVER, WRONG_USE), (CLIENT, ONE_USE)])
async def test_client_whose_certificate_is_for_one_use_only_is_refused(
    mesh: Mesh, nursery: trio.Nursery, usage: object, expected: tuple[Reason, str]
) -> None:
    shown = forge(["spiffe://cluster.local/ns/default/sa/a"], usages=[usage])  # type: ignore[list-item]
    record = await record_of_inbound(mesh, nursery, shown)
    assert record.reason == expected[0]
    assert expected[1] in record.detail


@pytest.mark.parametrize(("usage", "expected"), [(CLIENT, WRONG_USE), (SERVER, ONE_USE)])
async def test_server_whose_certificate_is_for_one_use_only_is_refused(
    mesh: Mesh, nursery: trio.Nursery, usage: object, expected: tuple[Reason, str]
) -> None:
    shown = forge(["spiffe://cluster.local/ns/default/sa/b"], usages=[usage])  # type: ignore[list-item]
    record = await record_of_outbound(mesh, nursery, shown)
    assert record.reason == expected[0]
    assert expected[1] in record.detail


def revocation_of(account: str, kind: RevocationKind) -> Revocation:
    values = {
        RevocationKind.IDENTITY: str(certificates.identity(account)),
        RevocationKind.SERIAL: svid(account).serial_number,
    }
    return Revocation(kind, values[kind], certificates.now(), "its key was stolen")


def revoke(side: Side, *revocations: Revocation) -> None:
    """Let one side know of revocations, before it is started."""
    bundles = TrustBundles(certificates.bundles().bundles, revoked=RevocationList(revocations))
    side.change(tls=Snapshot(tls_contexts(svid(side.workload.service_account), bundles)))


KINDS = (RevocationKind.IDENTITY, RevocationKind.SERIAL)


@pytest.mark.parametrize("kind", KINDS)
async def test_client_that_was_revoked_is_refused(
    mesh: Mesh, nursery: trio.Nursery, kind: RevocationKind
) -> None:
    revoke(mesh.destination, revocation_of("a", kind))
    record = await record_of_inbound(mesh, nursery, Proof.of(svid("a")))
    assert record.reason == Reason.PEER_REVOKED
    assert "its key was stolen" in record.detail


@pytest.mark.parametrize("kind", KINDS)
async def test_server_that_was_revoked_is_refused(
    mesh: Mesh, nursery: trio.Nursery, kind: RevocationKind
) -> None:
    revoke(mesh.source, revocation_of("b", kind))
    record = await record_of_outbound(mesh, nursery, Proof.of(svid("b")))
    assert record.reason == Reason.PEER_REVOKED
    assert "its key was stolen" in record.detail


async def test_client_of_a_revoked_intermediate_is_refused(mesh: Mesh, nursery: trio.Nursery) -> None:
    """The destination has a certificate of the next intermediate already."""
    issuer = certificates.authority()
    serial = f"{issuer.intermediate.serial_number:x}"
    why = Revocation(RevocationKind.SERIAL, serial, certificates.now(), "the authority was broken into")
    renewed = new_svid(certificates.identity("b"), issuer.with_renewed_intermediate(certificates.now()))
    bundles = TrustBundles(certificates.bundles().bundles, revoked=RevocationList((why,)))
    mesh.destination.change(tls=Snapshot(tls_contexts(renewed, bundles)))
    record = await record_of_inbound(mesh, nursery, Proof.of(svid("a")))
    assert record.reason == Reason.PEER_REVOKED


async def test_revocation_of_another_leaves_a_client_alone(mesh: Mesh, nursery: trio.Nursery) -> None:
    revoke(mesh.destination, *(revocation_of("c", kind) for kind in KINDS))
    mesh.destination.start(nursery)
    with tunnel_client(tls_context(Proof.of(svid("a"))), mesh.destination) as stream:
        await stream.handshake()
        await send(stream, request(Endpoint(DESTINATION_ADDRESS, 1)))
        assert (await receive_until_end(stream)).startswith(b"HTTP/1.1 503")
    record = await mesh.destination.recorder.only_record()
    assert record.reason == Reason.DESTINATION_REFUSED
