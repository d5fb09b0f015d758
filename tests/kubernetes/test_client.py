"""Requests to the API server: who answers is verified, what is answered is bounded, and failures are one line."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.cluster.cluster import Kind
from interceptor.errors import ClusterError
from interceptor.kubernetes import client as client_module
from interceptor.kubernetes import listing
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient, ApiRefusal
from interceptor.kubernetes.listing import list_all, zone_of_node
from interceptor.kubernetes.resource import PODS
from tests.kubernetes.api_server import ApiServer, running
from tests.kubernetes.certificates import write_certificates
from tests.kubernetes.conftest import fill

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

JSON = "application/json"


async def test_client_verifies_the_server_and_shows_its_token(tmp_path: Path) -> None:
    ca, certificate, key = write_certificates(tmp_path / "right")
    other_ca, _, _ = write_certificates(tmp_path / "other")
    token = tmp_path / "token"
    token.write_text("sesame\n")
    api = ApiServer(token="sesame")
    fill(api)
    async with running(api, certificate, key):
        assert api.url.startswith("https://127.0.0.1:")
        async with ApiClient(ApiAccess(api.url, token, ca)) as client:
            assert len((await list_all(client, PODS)).objects) == 3
            token.write_text("stolen\n")
            with pytest.raises(
                ApiRefusal, match="status 401, 'Unauthorized': the token is not accepted"
            ) as caught:
                await list_all(client, PODS)
            assert caught.value.status == 401
            assert "stolen" not in str(caught.value)
            token.write_text("sesame\n")
            assert len((await list_all(client, PODS)).objects) == 3
        asked = len(api.requests)
        async with ApiClient(ApiAccess(api.url, token, other_ca)) as client:
            with pytest.raises(ClusterError, match="its certificate is not accepted, "):
                await list_all(client, PODS)
        async with ApiClient(ApiAccess(api.url.replace("127.0.0.1", "localhost"), token, ca)) as client:
            with pytest.raises(ClusterError, match="its certificate is not accepted, Hostname mismatch"):
                await list_all(client, PODS)
        assert len(api.requests) == asked


async def test_client_asks_again_over_the_same_connection_and_once_more_when_it_died(api: ApiServer) -> None:
    async with ApiClient(ApiAccess(api.url, None, None)) as client:
        for _ in range(3):
            assert len((await list_all(client, PODS)).objects) == 3
        assert len(client._idle) == 1
        await client._idle[0].aclose()
        assert len((await list_all(client, PODS)).objects) == 3


async def test_list_without_an_end_is_left(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_OBJECTS", 2)
    async with ApiClient(ApiAccess(api.url, None, None)) as client:
        with pytest.raises(ClusterError, match="/api/v1/pods has more than 2 objects"):
            await list_all(client, PODS)


async def test_zone_of_a_node_is_its_label(api: ApiServer) -> None:
    async with ApiClient(ApiAccess(api.url, None, None)) as client:
        assert await zone_of_node(client, "node-1") == "zone-a"
        assert await zone_of_node(client, "node-2") is None
        assert await zone_of_node(client, "nobody") is None
        api.nodes["node-1"] = {"metadata": {"name": "x"}}
        with pytest.raises(ClusterError, match="/api/v1/nodes/node-1: the API's answer cannot be used: node"):
            await zone_of_node(client, "node-1")
        api.token = "needed now"
        with pytest.raises(ApiRefusal, match="status 401"):
            await zone_of_node(client, "node-1")


@pytest.mark.parametrize("content", ["", "no certificate", "\u00e4"])
def test_ca_file_of_no_use_is_told(tmp_path: Path, content: str) -> None:
    file = tmp_path / "ca.crt"
    file.write_text(content)
    with pytest.raises(
        ClusterError, match=r"cannot use .*ca.crt as the CA's certificates: it holds no certificate in PEM"
    ):
        ApiClient(ApiAccess("https://10.0.0.1", None, file))
    with pytest.raises(ClusterError, match="as the CA's certificates: No such file"):
        ApiClient(ApiAccess("https://10.0.0.1", None, tmp_path / "none"))


async def test_server_that_is_not_there_is_told() -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with ApiClient(ApiAccess(f"http://127.0.0.1:{port}", None, None)) as client:
            with pytest.raises(ClusterError, match=f"http://127.0.0.1:{port} cannot be reached: .*refused"):
                await client.get("/", {}, JSON)


async def _read_request(stream: trio.SocketStream) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some()


async def _answers(stream: trio.SocketStream, answer: bytes) -> None:
    await _read_request(stream)
    await stream.send_all(answer)
    await stream.aclose()


async def _says_nothing(stream: trio.SocketStream) -> None:
    await _read_request(stream)
    await trio.sleep_forever()


async def _asked(serve: Callable[[trio.SocketStream], Awaitable[None]], limit: int = 100) -> bytes:
    """What the client gets from such a server."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        try:
            async with ApiClient(ApiAccess(f"http://127.0.0.1:{port}", None, None)) as client:
                return await client.get("/path", {}, JSON, limit)
        finally:
            nursery.cancel_scope.cancel()
    raise AssertionError


BROKEN = {
    "closed": (b"", "went away: "),
    "no_http": (b"SSH-2.0-OpenSSH\r\n\r\n", "went away: "),
    "endless_headers": (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, "went away: "),
    "cut_body": (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf", "went away: "),
    "too_much": (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101, "has more than 100 bytes"),
    "no_status": (
        b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno",
        "refused /path with status 500, it gave no reason",
    ),
    "redirect": (b"HTTP/1.1 302 Go\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n", "with status 302"),
}


@pytest.mark.parametrize(("answer", "message"), BROKEN.values(), ids=BROKEN)
async def test_answer_of_no_use_is_one_line(answer: bytes, message: str) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(ClusterError), flatten_subgroups=True) as caught:
        await _asked(partial(_answers, answer=answer))
    text = str(caught.value.exceptions[0])
    assert message in text
    assert "\n" not in text


async def test_interim_answers_are_passed_over() -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
    assert await _asked(partial(_answers, answer=answer)) == b"hi"


async def test_server_that_does_not_answer_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 0.2)
    with pytest.RaisesGroup(
        pytest.RaisesExc(ClusterError, match="did not answer within 0.2 s"), flatten_subgroups=True
    ):
        await _asked(_says_nothing)


async def test_watch_that_is_refused_is_told(api: ApiServer) -> None:
    api.faults.refuse[Kind.POD] = 403
    async with ApiClient(ApiAccess(api.url, None, None)) as client:
        with pytest.raises(ApiRefusal, match="status 403"):
            await client.follow(PODS.path, {"watch": "true"}, JSON, print)
