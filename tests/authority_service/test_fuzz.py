"""Requests that were damaged at random: each is answered or its connection ended, and none is a fault of ours."""

from __future__ import annotations

import base64
import random
import textwrap
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from interceptor.transport.streams import StreamBroken
from tests.authority_service.forged import NAME, csr
from tests.authority_service.running import Service, issue_body, raw, request
from tests.authority_service.test_api import svid_of

if TYPE_CHECKING:
    from interceptor.identity.svid import NodeSvid

REQUESTS, CONNECTIONS = 300, 150


@pytest.fixture
async def node(service: Service) -> NodeSvid:
    client = await service.joined("node-a")
    assert client.svid is not None
    return client.svid


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The same with a few bytes changed, left out, doubled, or cut off."""
    result = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(result))
        match chance.randrange(4):
            case 0:
                result[place] = chance.randrange(256)
            case 1:
                del result[place]
            case 2:
                result[place:place] = result[place : place + chance.randint(1, 40)]
            case _:
                del result[max(place, 1) :]
    return bytes(result)


def in_pem(der: bytes) -> str:
    text = "\n".join(textwrap.wrap(base64.b64encode(der).decode("ascii"), 64))
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n"


async def test_damaged_signing_requests_are_refused_as_such(service: Service, node: NodeSvid) -> None:
    chance = random.Random(20260304)
    whole = x509.load_pem_x509_csr(csr(NAME).encode()).public_bytes(Encoding.DER)
    codes = set()
    async with raw(service, node) as client:
        assert (await client.ask("POST", "/v1/issue", issue_body(service, in_pem(whole))))[0] == 200
        for _ in range(REQUESTS):
            body = issue_body(service, in_pem(damaged(whole, chance)))
            status, answer = await client.ask("POST", "/v1/issue", body)
            codes.add(None if status == 200 else answer["code"])
    assert codes == {"signing_request_refused"}


async def test_damaged_bodies_are_refused_as_such(service: Service, node: NodeSvid) -> None:
    chance = random.Random(20260305)
    codes = set()
    async with raw(service, node) as client:
        for _ in range(REQUESTS):
            body = damaged(issue_body(service, csr(NAME)), chance)
            status, answer = await client.ask("POST", "/v1/issue", body)
            codes.add(None if status == 200 else answer["code"])
    assert "request_malformed" in codes
    assert "authority_unavailable" not in codes


async def test_damaged_requests_end_nothing_but_their_connection(
    service: Service, node: NodeSvid, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(20260306)
    for _ in range(CONNECTIONS):
        whole = request("POST", "/v1/issue", issue_body(service, csr(NAME))) + request("GET", "/healthz")
        async with raw(service, node) as client:
            with suppress(StreamBroken):
                await client.send(damaged(whole, chance))
                await client.stream.finish_sending()
            await client.receive_all()
    assert [r.getMessage() for r in caplog.records if r.levelname in ("ERROR", "WARNING")] == []
    assert "authority_unavailable" not in {line["code"] for line in service.audit("refused")}
    await svid_of(await service.joined("honest"))
