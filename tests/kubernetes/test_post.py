"""A request that creates something: sent once, over a connection of its own, with an answer that is bounded."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.errors import ClusterError
from interceptor.kubernetes import client as client_module
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient, ApiRefusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATH = "/apis/x/v1/reviews"


class Peer:
    """A server of bytes: it keeps what it was sent, and answers each connection with `answer`, or not at all."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.received: list[bytes] = []

    async def handle(self, stream: trio.SocketStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data or not data.endswith(b"}"):
            data += await stream.receive_some()
        self.received.append(data)
        if self.answer is None:
            await trio.sleep_forever()
        await stream.send_all(self.answer or b"")
        await stream.aclose()


@asynccontextmanager
async def answering(answer: bytes | None, token: Path | None = None) -> AsyncIterator[tuple[Peer, ApiClient]]:
    peer = Peer(answer)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, peer.handle, [listener])
        port = listener.socket.getsockname()[1]
        async with ApiClient(ApiAccess(f"http://127.0.0.1:{port}", token, None)) as client:
            yield peer, client
        nursery.cancel_scope.cancel()


def response(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Word\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize("status", [200, 201])
async def test_body_is_sent_as_json_and_the_answer_given(status: int, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame")
    async with answering(response(status, b'{"a": 1}'), tmp_path / "token") as (peer, client):
        assert await client.post(PATH, b'{"spec": {}}') == b'{"a": 1}'
    (sent,) = peer.received
    head, _, body = sent.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in lines)}
    assert first == f"POST {PATH} HTTP/1.1"
    assert headers["content-type"] == "application/json"
    assert headers["authorization"] == "Bearer sesame"
    assert body == b'{"spec": {}}'
    assert headers["content-length"] == str(len(body))


async def test_refusal_says_which_right_is_missing() -> None:
    body = json.dumps({"kind": "Status", "code": 403, "message": "cannot create reviews"}).encode()
    async with answering(response(403, body)) as (_, client):
        with pytest.raises(
            ApiRefusal, match=r"'cannot create reviews': give the service account the right to create it"
        ):
            await client.post(PATH, b"{}")


async def test_request_whose_connection_breaks_is_not_sent_again() -> None:
    async with answering(b"") as (peer, client):
        with pytest.raises(ClusterError, match="went away"):
            await client.post(PATH, b"{}")
    assert len(peer.received) == 1


async def test_answer_that_is_too_long_or_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with answering(response(200, b"x" * 100_000)) as (_, client):
        with pytest.raises(ClusterError, match="more than 65536 bytes"):
            await client.post(PATH, b"{}")
    monkeypatch.setattr(client_module, "POST_SECONDS", 0.3)
    async with answering(None) as (_, client):
        with pytest.raises(ClusterError, match=r"did not answer within 0\.3 s"):
            await client.post(PATH, b"{}")
