"""The door to OpenSSL: what is negotiated, what is never offered, and streams that stay whole whatever happens."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL

from interceptor.errors import PeerRejected
from interceptor.policy.verdict import Reason
from interceptor.telemetry.connection_record import ConnectionRecord
from interceptor.transport.streams import StreamBroken, abort_socket
from interceptor.transport.tls import RECORD_BYTES, TlsStream, tls_contexts
from interceptor.workload import Direction
from tests.proxy import certificates
from tests.proxy.certificates import Proof, svid, tls_context
from tests.proxy.peers import receive_some, receive_until_end, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Pair = tuple[TlsStream, TlsStream]


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as near,
        listening.accept()[0] as far,
    ):
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


@contextmanager
def streams(client: SSL.Context, server: SSL.Context) -> Iterator[Pair]:
    with tcp_pair() as (near, far):
        yield TlsStream(client, near, server_side=False), TlsStream(server, far, server_side=True)


async def shake_hands(pair: Pair) -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for stream in pair:
                nursery.start_soon(stream.handshake)


@pytest.fixture
async def pair() -> trio.abc.AsyncResource:  # type: ignore[misc]
    """Two streams of ours after their handshake, client first."""
    ours = tls_contexts(svid("a"), certificates.bundles())
    theirs = tls_contexts(svid("b"), certificates.bundles())
    with streams(ours.client, theirs.server) as both:
        await shake_hands(both)
        yield both


def buffer(size: int = RECORD_BYTES) -> memoryview:
    return memoryview(bytearray(size))


async def test_handshake_gives_both_the_others_identity_and_the_best_parameters(pair: Pair) -> None:
    client, server = pair
    bundles = certificates.bundles()
    assert bundles.identify(client.verified_chain(), certificates.now()) == certificates.identity("b")
    assert bundles.identify(server.verified_chain(), certificates.now()) == certificates.identity("a")
    for stream in pair:
        assert stream.speaks_tunnel()
        record = ConnectionRecord(Direction.INBOUND, "1", "2", None, None, 0.0, 0.0)
        stream.note_parameters(record)
        assert (record.tls_version, record.cipher) == ("TLSv1.3", "TLS_AES_128_GCM_SHA256")
        assert record.key_exchange == "X25519MLKEM768"
    assert client._connection.get_servername() is None


async def test_chacha_is_not_spoken() -> None:
    only_chacha = tls_context(Proof.of(svid("a")))
    only_chacha.set_tls13_ciphersuites(b"TLS_CHACHA20_POLY1305_SHA256")
    ours = tls_contexts(svid("b"), certificates.bundles())
    with streams(only_chacha, ours.server) as (client, server):
        async with trio.open_nursery() as nursery:

            async def be_refused() -> None:
                with pytest.raises(PeerRejected, match="alert handshake failure"):
                    await client.handshake()

            nursery.start_soon(be_refused)
            with pytest.raises(PeerRejected, match="no shared cipher") as caught:
                await server.handshake()
    assert caught.value.reason == Reason.HANDSHAKE_FAILED


async def test_old_svid_stays_in_force_for_its_connections_when_it_is_replaced(pair: Pair) -> None:
    client, server = pair
    new = tls_contexts(svid("a2"), certificates.bundles())
    with streams(new.client, tls_contexts(svid("b"), certificates.bundles()).server) as both:
        await shake_hands(both)
    await send(client, b"x")
    assert await receive_some(server) == b"x"


async def test_receive_fills_the_buffer_with_as_many_records_as_are_there(pair: Pair) -> None:
    client, server = pair
    await send(client, bytes(3 * RECORD_BYTES))
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert await server.receive_into(buffer(4 * RECORD_BYTES)) == 3 * RECORD_BYTES


async def test_receive_leaves_what_does_not_fit(pair: Pair) -> None:
    client, server = pair
    await send(client, bytes(2 * RECORD_BYTES))
    await send(client, b"rest")
    received = [await server.receive_into(buffer(RECORD_BYTES)) for _ in range(3)]
    assert received == [RECORD_BYTES, RECORD_BYTES, 4]


async def test_receive_can_be_cancelled_and_loses_nothing(pair: Pair) -> None:
    client, server = pair
    for _ in range(3):
        with trio.move_on_after(0.01) as scope:
            await server.receive_into(buffer())
        assert scope.cancelled_caught
    await send(client, b"x")
    assert await receive_some(server) == b"x"


async def test_end_is_close_notify_and_ends_one_direction_only(pair: Pair) -> None:
    client, server = pair
    await send(client, b"x")
    await client.finish_sending()
    assert await receive_until_end(server) == b"x"
    assert await server.receive_into(buffer()) == 0  # and again
    await send(server, b"still here")
    assert await receive_some(client) == b"still here"
    await server.finish_sending()
    assert await receive_until_end(client) == b""


async def test_fin_without_close_notify_is_no_end(pair: Pair) -> None:
    client, server = pair
    await send(server, b"x")
    assert await receive_some(client) == b"x"  # session tickets too: left unread, they would make it a reset
    await send(client, b"x")
    client.close()
    assert await receive_some(server) == b"x"
    with pytest.raises(StreamBroken, match="ended without close_notify"):
        await receive_some(server)


async def test_reset_breaks_every_operation(pair: Pair) -> None:
    client, server = pair
    client.abort()
    with pytest.raises(StreamBroken, match="Connection reset by peer"):
        await receive_some(server)
    with pytest.raises(StreamBroken):
        await send(server, b"x")
    with pytest.raises(StreamBroken):
        await server.finish_sending()


async def test_record_that_was_tampered_with_breaks_the_stream() -> None:
    ours = tls_contexts(svid("a"), certificates.bundles())
    with streams(ours.client, ours.server) as pair:
        await shake_hands(pair)
        client, server = pair
        client._socket.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(StreamBroken, match="decryption failed or bad record mac"):
            await receive_some(server)


async def test_both_directions_may_be_blocked_at_once(pair: Pair) -> None:
    """Each side writes more than fits before it reads: the two tasks of a relay share one socket."""
    total = 8 * 1024 * 1024

    async def read(stream: TlsStream) -> None:
        block, received = buffer(256 * 1024), 0
        while received < total:
            received += await stream.receive_into(block)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for stream in pair:
                nursery.start_soon(stream.send_all, memoryview(bytes(total)))
            await trio.testing.wait_all_tasks_blocked()
            for stream in pair:
                nursery.start_soon(read, stream)


async def test_failure_of_one_connection_is_not_found_by_the_next(pair: Pair) -> None:
    """OpenSSL's errors wait in a queue of the thread until somebody takes them."""
    ours = tls_contexts(svid("a"), certificates.bundles())
    for operation in ("send", "finish", "receive"):
        with streams(ours.client, ours.server) as other:
            await shake_hands(other)
            abort_socket(other[1]._socket)
            attempt = {
                "send": lambda stream: send(stream, b"x"),
                "finish": lambda stream: stream.finish_sending(),
                "receive": receive_some,
            }[operation]
            with pytest.raises(StreamBroken):
                await attempt(other[0])
        assert SSL._lib.ERR_peek_error() == 0
        await send(pair[0], b"x")
        assert await receive_some(pair[1]) == b"x"


def test_private_key_is_not_shown() -> None:
    contexts = tls_contexts(svid("a"), certificates.bundles())
    number = svid("a").private_key.private_numbers().private_value
    for text in (repr(contexts), str(contexts)):
        assert str(number) not in text
        assert f"{number:x}" not in text


# Against the OpenSSL program, which can do what no library here lets us do.


@pytest.fixture
def s_client(tmp_path: Path) -> list[str]:
    """The command line of a TLS client that shows a good SVID; the port is still to be added."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("needs the program openssl")
    good = svid("a")
    (tmp_path / "chain.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in good.chain[1:]))
    (tmp_path / "cert.pem").write_bytes(good.leaf.public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        good.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (tmp_path / "roots.pem").write_bytes(
        b"".join(root.public_bytes(Encoding.PEM) for root in certificates.bundles().roots)
    )
    return [
        program, "s_client", "-cert", f"{tmp_path}/cert.pem", "-key", f"{tmp_path}/key.pem",
        "-cert_chain", f"{tmp_path}/chain.pem", "-CAfile", f"{tmp_path}/roots.pem",
        "-alpn", "http/1.1", "-noservername", "-msg",
    ]  # fmt: skip


@contextmanager
def program_connected(command: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], TlsStream]]:
    server = tls_contexts(svid("b"), certificates.bundles()).server
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with subprocess.Popen(
            [*command, "-connect", f"127.0.0.1:{port}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            try:
                with listening.accept()[0] as accepted:
                    accepted.setblocking(False)
                    yield process, TlsStream(server, accepted, server_side=True)
            finally:
                process.kill()


async def test_keys_may_be_updated_at_any_time(s_client: list[str]) -> None:
    """RFC 8446 section 4.6.3; the peer's request for ours is answered while both directions are in use."""
    output = bytearray()
    with program_connected(s_client) as (process, stream):
        assert process.stdin is not None
        assert process.stdout is not None
        pipe = process.stdout.fileno()

        read = partial(trio.to_thread.run_sync, abandon_on_cancel=True)

        async def wait_for_output(text: bytes, count: int = 1) -> None:
            with trio.fail_after(10):
                while output.count(text) < count:
                    output.extend(await read(os.read, pipe, 1 << 16))

        await stream.handshake()
        for number in range(5):
            # A line "K" makes it update its keys and ask for ours: if that is all that it reads at once.
            process.stdin.write(b"K\n")
            process.stdin.flush()
            await wait_for_output(b"KEYUPDATE", number + 1)
            line = b"line %d\n" % number
            process.stdin.write(line)
            process.stdin.flush()
            received = b""
            while not received.endswith(line):
                received += await receive_some(stream)
            await send(stream, b"answer %d\n" % number)
            await wait_for_output(b"answer %d\n" % number)
        await stream.finish_sending()
        process.stdin.close()
        assert await receive_until_end(stream) == b""
        stream.close()
        output += await trio.to_thread.run_sync(process.stdout.read)
    assert output.count(b"KeyUpdate") >= 10  # five of each side


async def test_session_is_not_resumed(s_client: list[str], tmp_path: Path) -> None:
    """The server gives tickets out (pyOpenSSL cannot tell it not to), and takes none back."""
    session = tmp_path / "session"
    for options in (["-sess_out", str(session)], ["-sess_in", str(session)]):
        with program_connected([*s_client, *options]) as (process, stream):
            await stream.handshake()
            await send(stream, b"done\n")
            await stream.finish_sending()
            output = await trio.to_thread.run_sync(process.stdout.read)  # type: ignore[union-attr]
        assert b"done" in output
        assert b"\nNew, TLSv1.3" in output
        assert b"\nReused" not in output
    assert session.exists()
