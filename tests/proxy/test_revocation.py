"""Revoked while connected, while connecting, and before: real sockets and TLS, each side with its own reason."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from interceptor.errors import PeerRejected
from interceptor.identity.authority import Authority
from interceptor.identity.revocation import Revocation, RevocationKind, RevocationList
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.trust_bundle import TrustBundles
from interceptor.policy.verdict import Reason
from interceptor.proxy.late_denial import revocation_denial
from interceptor.transport.streams import StreamBroken
from interceptor.transport.tls import RECORD_BYTES, tls_contexts
from tests.proxy import certificates
from tests.proxy.mesh import DEADLINE_SECONDS, Mesh, echo, is_reset, receive_all, serve_application
from tests.proxy.peers import tunnel_client

if TYPE_CHECKING:
    from interceptor.telemetry.connection_record import ConnectionRecord
    from tests.proxy.mesh import Side

DOMAIN = certificates.DOMAIN
A, B = certificates.identity("a"), certificates.identity("b")


def bundles_without(kind: RevocationKind, value: str) -> TrustBundles:
    """What is believed, but for one."""
    entry = Revocation(kind, value, datetime.now(UTC), "laptop was stolen")
    return TrustBundles(certificates.bundles().bundles, (), DOMAIN, RevocationList((entry,)))


def believe(side: Side, bundles: TrustBundles) -> None:
    """What the agent does when a trust document arrives."""
    contexts = side.context.tls.value
    assert contexts is not None
    side.context.tls.replace(tls_contexts(contexts.svid, bundles))
    side.context.live.close_denied(lambda record: revocation_denial(record, bundles))


async def echo_until_reset(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        await echo(stream)


async def connected(mesh: Mesh) -> trio.SocketStream:
    client = await mesh.connect()
    await client.send_all(b"x")
    with trio.fail_after(DEADLINE_SECONDS):
        assert await client.receive_some(1) == b"x"
    return client


def serial_of(name: str) -> str:
    return certificates.svid(name).serial_number


@pytest.mark.parametrize(
    ("kind", "value", "source_reason", "destination_reason"),
    [
        (RevocationKind.IDENTITY, str(B), Reason.PEER_REVOKED, Reason.IDENTITY_REVOKED),
        (RevocationKind.IDENTITY, str(A), Reason.IDENTITY_REVOKED, Reason.PEER_REVOKED),
        (RevocationKind.SERIAL, "a", Reason.IDENTITY_REVOKED, Reason.PEER_REVOKED),
        (RevocationKind.SERIAL, "b", Reason.PEER_REVOKED, Reason.IDENTITY_REVOKED),
    ],
)
@pytest.mark.parametrize("first", ["source", "destination"])
async def test_live_connection_of_one_who_is_revoked_is_reset_by_whoever_hears_of_it_first(
    running: Mesh,
    nursery: trio.Nursery,
    kind: RevocationKind,
    value: str,
    source_reason: Reason,
    destination_reason: Reason,
    first: str,
) -> None:
    running.aim = await serve_application(nursery, echo_until_reset)
    client = await connected(running)
    revoked = bundles_without(kind, value if len(value) > 1 else serial_of(value))
    side: Side = getattr(running, first)
    believe(side, revoked)
    assert await is_reset(client)
    await client.aclose()
    record = await side.recorder.only_record()
    assert record.reason is (source_reason if first == "source" else destination_reason)
    assert "laptop was stolen" in record.detail
    assert (record.bytes_sent, record.bytes_received) == (1, 1)
    await running.records()


async def test_live_connection_of_others_goes_on(running: Mesh, nursery: trio.Nursery) -> None:
    running.aim = await serve_application(nursery, echo_until_reset)
    async with await connected(running) as client:
        for side in (running.source, running.destination):
            believe(side, bundles_without(RevocationKind.IDENTITY, str(certificates.identity("c"))))
        await client.send_all(b"y")
        await client.send_eof()
        assert await receive_all(client) == b"y"
    assert {record.reason for record in await running.records()} == {None}


async def refused(mesh: Mesh) -> ConnectionRecord:
    async with await mesh.connect() as client:
        assert await is_reset(client)
    return await mesh.source.recorder.only_record()


async def test_new_connection_of_a_revoked_workload_is_not_even_tried(
    running: Mesh, nursery: trio.Nursery
) -> None:
    running.aim = await serve_application(nursery, echo_until_reset)
    believe(running.source, bundles_without(RevocationKind.IDENTITY, str(A)))
    record = await refused(running)
    assert record.reason is Reason.IDENTITY_REVOKED
    assert running.destination.recorder.closed_records == []


async def test_new_connection_to_a_revoked_workload_is_refused_by_the_source(
    running: Mesh, nursery: trio.Nursery
) -> None:
    running.aim = await serve_application(nursery, echo_until_reset)
    for side in (running.destination, running.source):  # whose own node would reset it without a word
        believe(side, bundles_without(RevocationKind.IDENTITY, str(B)))
    record = await refused(running)
    assert record.reason is Reason.PEER_REVOKED
    assert str(B) in record.detail
    assert running.destination.recorder.closed_records == []  # nobody was dialled


async def test_serial_number_of_the_destination_is_known_from_its_handshake_only(
    running: Mesh, nursery: trio.Nursery
) -> None:
    running.aim = await serve_application(nursery, echo_until_reset)
    believe(running.source, bundles_without(RevocationKind.SERIAL, serial_of("b")))
    record = await refused(running)
    assert record.reason is Reason.PEER_REVOKED
    assert serial_of("b") in record.detail


async def test_new_connection_from_a_revoked_workload_is_refused_by_the_destination(
    running: Mesh, nursery: trio.Nursery
) -> None:
    running.aim = await serve_application(nursery, echo_until_reset)
    believe(running.destination, bundles_without(RevocationKind.SERIAL, serial_of("a")))
    await refused(running)
    record = await running.destination.recorder.only_record()
    assert record.reason is Reason.PEER_REVOKED
    assert "laptop was stolen" in record.detail


async def test_revocation_that_arrives_during_the_handshake_is_not_missed(
    running: Mesh, nursery: trio.Nursery
) -> None:
    """The contexts were taken when the connection came; what is believed is looked at when the peer is known."""
    running.aim = await serve_application(nursery, echo_until_reset)
    side = running.destination
    source = running.source.context.tls.value
    assert source is not None
    with tunnel_client(source.client, side) as client, trio.fail_after(DEADLINE_SECONDS):
        while not len(side.context.live):
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()  # it waits for the peer's first message
        believe(side, bundles_without(RevocationKind.IDENTITY, str(A)))
        with suppress(PeerRejected, StreamBroken):
            await client.handshake()
            await client.receive_into(memoryview(bytearray(RECORD_BYTES)))
        record = await side.recorder.only_record()
    assert record.reason is Reason.PEER_REVOKED


async def test_record_has_the_serial_numbers_of_both_chains(running: Mesh, nursery: trio.Nursery) -> None:
    running.aim = await serve_application(nursery, echo_until_reset)
    async with await connected(running) as client:
        await client.send_eof()
        await receive_all(client)
    sent, received = await running.records()
    assert sent.own_serials[0] == received.peer_serials[0] == serial_of("a")
    assert sent.peer_serials[0] == received.own_serials[0] == serial_of("b")
    assert len(sent.peer_serials) == 3  # leaf, intermediate, root
    assert sent.peer_not_after == certificates.svid("b").not_after


async def test_workload_whose_certificate_has_expired_says_so_before_anybody_is_dialled(
    mesh: Mesh, nursery: trio.Nursery
) -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    mesh.source.change(now=lambda: later)
    mesh.start(nursery)
    mesh.aim = await serve_application(nursery, echo_until_reset)
    record = await refused(mesh)
    assert record.reason is Reason.CERTIFICATE_MISSING
    assert "it expired at" in record.detail
    assert mesh.destination.recorder.closed_records == []


async def test_workload_whose_certificate_is_renewed_meanwhile_is_served(
    mesh: Mesh, nursery: trio.Nursery
) -> None:
    clock = [datetime.now(UTC) + timedelta(hours=2)]
    mesh.source.change(now=lambda: clock[0])
    mesh.source.limit(unknown_destination_wait=DEADLINE_SECONDS)
    mesh.start(nursery)
    mesh.aim = await serve_application(nursery, echo_until_reset)
    async with await mesh.connect() as client:
        await client.send_all(b"x")
        while not len(mesh.source.context.live):
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        clock[0] = datetime.now(UTC)
        mesh.source.context.tls.replace(tls_contexts(certificates.svid("a"), certificates.bundles()))
        await client.send_eof()
        assert await receive_all(client) == b"x"


async def test_identity_of_an_alias_is_the_one_that_the_registry_expects(
    running: Mesh, nursery: trio.Nursery
) -> None:
    """While a trust domain is renamed, nodes of the old and of the new name speak with each other."""
    alias = Authority.create(TrustDomain("old.example"), certificates.now())
    running.aim = await serve_application(nursery, echo_until_reset)
    believed = {**certificates.bundles().bundles, alias.trust_domain: alias.trust_bundle}
    bundles = TrustBundles(believed, (alias.trust_domain,), DOMAIN)
    named = SpiffeId(alias.trust_domain, "default", "b")
    running.destination.context.tls.replace(tls_contexts(certificates.new_svid(named, alias), bundles))
    source = running.source.context.tls.value
    assert source is not None
    running.source.context.tls.replace(tls_contexts(source.svid, bundles))
    async with await connected(running) as client:
        await client.send_eof()
        assert await receive_all(client) == b""
    sent, _ = await running.records()
    assert sent.reason is None
    assert sent.destination_identity == named
