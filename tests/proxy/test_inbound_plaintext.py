"""Connections without identity: the mode decides."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import InvalidInput
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.policy.policy_set import PolicySet
from interceptor.policy.verdict import Reason, Transport
from interceptor.proxy import inbound_plaintext
from interceptor.telemetry.connection_record import ClosedBy, CloseKind
from interceptor.workload import Endpoint
from tests.proxy.mesh import Mesh, echo, is_reset, receive_all, serve_application

if TYPE_CHECKING:
    import trio

    from interceptor.proxy.context import WorkloadContext


async def test_strict_mode_resets_plaintext(running: Mesh) -> None:
    async with await running.connect_plaintext() as client:
        assert await is_reset(client)
    record = await running.destination.recorder.only_record()
    assert (record.verdict, record.reason) == ("denial", Reason.PLAINTEXT_REFUSED)
    assert (record.closed_by, record.close_kind) == (ClosedBy.INTERCEPTOR, CloseKind.RESET)
    assert record.source is not None
    assert record.destination == Endpoint(
        ip_address("127.0.0.1"), running.destination.plaintext.getsockname()[1]
    )
    assert record.source_identity is None
    assert record.destination_identity is None


@pytest.mark.parametrize("mode", [MtlsMode.PERMISSIVE, MtlsMode.DISABLE])
async def test_other_modes_carry_plaintext_and_claim_no_identity(
    running: Mesh, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, mode: MtlsMode
) -> None:
    running.policy.replace(PolicySet(mode))
    application = await serve_application(nursery, echo)
    # Without steering the listener's own address is where the connection was meant to go.
    monkeypatch.setattr(inbound_plaintext, "local_endpoint", lambda _: application)
    async with await running.connect_plaintext() as client:
        await client.send_all(b"question")
        await client.send_eof()
        assert await receive_all(client) == b"question"
    record = await running.destination.recorder.only_record()
    assert (record.verdict, record.transport) == ("permit", Transport.PLAINTEXT)
    assert (record.source_identity, record.source_workload, record.tls_version) == (None, None, None)
    assert (record.bytes_sent, record.bytes_received) == (8, 8)


async def test_reserved_port_is_refused_in_every_mode(running: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    running.policy.replace(PolicySet(MtlsMode.PERMISSIVE))
    aim = Endpoint(ip_address("127.0.0.1"), 15001)
    monkeypatch.setattr(inbound_plaintext, "local_endpoint", lambda _: aim)
    async with await running.connect_plaintext() as client:
        assert await is_reset(client)
    assert (await running.destination.recorder.only_record()).reason is Reason.RESERVED_PORT


async def test_port_0_is_refused_without_a_fault(
    mesh: Mesh, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """connect(2) to port 0 does send a SYN, and steering accepts it."""

    class SteeredSocket(socket.socket):
        def getsockname(self) -> tuple[str, int]:
            return ("127.0.0.1", 0)

    with pytest.raises(InvalidInput):
        Endpoint(ip_address("127.0.0.1"), 0)
    context: WorkloadContext = mesh.destination.context
    with socket.create_connection(mesh.destination.plaintext.getsockname()) as client:
        accepted = mesh.destination.plaintext.accept()[0]
        await inbound_plaintext.handle(SteeredSocket(fileno=accepted.detach()), context)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    record = await mesh.destination.recorder.only_record()
    assert record.reason is Reason.NO_ORIGINAL_DESTINATION
    assert caplog.records == []


async def test_application_that_refuses_resets_the_client(
    running: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.policy.replace(PolicySet(MtlsMode.PERMISSIVE))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        aim = Endpoint(ip_address("127.0.0.1"), closed.getsockname()[1])
    monkeypatch.setattr(inbound_plaintext, "local_endpoint", lambda _: aim)
    async with await running.connect_plaintext() as client:
        assert await is_reset(client)
    record = await running.destination.recorder.only_record()
    assert (record.verdict, record.reason) == ("denial", Reason.DESTINATION_REFUSED)
