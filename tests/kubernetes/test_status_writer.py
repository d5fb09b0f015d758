"""What is written into the status of objects: a failure is told once and followed by a pause, and then by the next."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.cluster_status.events import EventLog, Happening, Subject
from interceptor.cluster_status.token_bucket import TokenBucket
from interceptor.errors import ClusterError, InvalidInput
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient, ApiRefusal
from interceptor.kubernetes.event_sender import EventSender
from interceptor.kubernetes.status_writer import Outcome, StatusWriter
from tests.authority_service.running import Clock
from tests.kubernetes.api_server import ApiServer, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

POD = Subject("v1", "Pod", "shop", "web-1", "u1")
FAILING = Happening(POD, True, "Degraded", "Enrol")


async def write(error: Exception | None = None) -> None:
    await trio.lowlevel.checkpoint()
    if error is not None:
        raise error


async def wait_open(writer: StatusWriter) -> None:
    while True:
        if writer.may_try:
            return
        await trio.sleep(0.1)


@pytest.mark.parametrize(
    ("error", "outcome", "may_try"),
    [
        (None, Outcome.DONE, True),
        (ApiRefusal(404, "gone"), Outcome.GONE, True),
        (ApiRefusal(409, "another has its name"), Outcome.CONFLICT, True),
        (ApiRefusal(422, "denied by an admission policy"), Outcome.REFUSED, True),
        (InvalidInput("conditions that cannot be kept"), Outcome.REFUSED, True),
        (ApiRefusal(403, "no right"), Outcome.LATER, False),
        (ApiRefusal(401, "no token"), Outcome.LATER, False),
        (ApiRefusal(429, "too many"), Outcome.LATER, False),
        (ApiRefusal(503, "away"), Outcome.LATER, False),
        (ClusterError("cannot be reached"), Outcome.LATER, False),
    ],
)
async def test_outcome_says_whether_to_go_on_or_to_pause(
    error: Exception | None, outcome: Outcome, may_try: bool
) -> None:
    writer = StatusWriter("the status")
    assert await writer.attempt(write(error)) is outcome
    assert writer.may_try is may_try
    assert (writer.problem is None) is may_try


async def test_failure_is_logged_once_and_pauses_grow(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    writer = StatusWriter("the status")
    pauses = []
    for _ in range(12):
        began = trio.current_time()
        await writer.attempt(write(ApiRefusal(403, "no right")))
        await wait_open(writer)
        pauses.append(trio.current_time() - began)
    assert pauses[0] < 1
    assert 100 < pauses[-1] < 181
    await writer.attempt(write(ClusterError("away")))
    await wait_open(writer)
    assert trio.current_time() - began < pauses[-1] + 31
    with caplog.at_level(logging.INFO):
        assert await writer.attempt(write()) is Outcome.DONE
    for _ in range(3):
        await writer.attempt(write(ApiRefusal(422, "denied")))
    logged = [record.getMessage() for record in caplog.records]
    assert [each for each in logged if "the status" in each] == [
        "the status cannot be written, nothing depends on it: no right",
        "the status cannot be written, nothing depends on it: away",
        "the status can be written again",
        "the status cannot be written for one object: denied",
    ]


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with running(ApiServer()) as made:
        yield made


async def test_events_are_created_and_counted(api: ApiServer) -> None:
    log = EventLog(TokenBucket(10, 1.0), Subject("v1", "Node", "", "n", "n"))
    async with ApiClient(ApiAccess(api.url, None, None)) as client:
        sender = EventSender(client, log, "interceptor.io/agent", "node-1", Clock())
        for seconds in (100.0, 99.0):
            log.happened(FAILING, "it has no certificate", trio.current_time() - seconds)
            await sender.send()
    (event,) = api.written.events.values()
    assert event["series"]["count"] == 2


async def test_events_wait_for_an_api_that_is_away(api: ApiServer) -> None:
    log = EventLog(TokenBucket(10, 1.0), Subject("v1", "Node", "", "n", "n"))
    api.is_away = True
    async with ApiClient(ApiAccess(api.url, None, None)) as client:
        sender = EventSender(client, log, "interceptor.io/agent", "node-1", Clock())
        log.happened(FAILING, "it has no certificate", trio.current_time())
        await sender.send()
        assert sender.writer.problem is not None
        api.is_away = False
        await sender.send()  # it pauses
        assert api.written.events == {}
        with trio.fail_after(5):
            while not api.written.events:
                await sender.send()
                await trio.sleep(0.05)
    assert sender.writer.problem is None


async def test_time_of_the_server_is_what_it_says_and_goes_on(api: ApiServer) -> None:
    async with ApiClient(ApiAccess(api.url, None, None)) as client:
        assert client.time() is None
        api.skew_seconds = 3600.0
        with pytest.raises(ApiRefusal):
            await client.get("/nothing", {}, "application/json")
        heard = client.time()
        assert heard is not None
        assert 3590 < heard.timestamp() - time.time() < 3610
        client._note_date(_Dated(b"yesterday"))
        client._note_date(_Dated(None))
        client._note_date(_Dated(b"\xff"))
        client._note_date(_Dated(b"Tue, 24 Nov 2026 12:00:00 -0000"))  # of no zone
        again = client.time()
        assert again is not None
        assert again >= heard


class _Dated:
    def __init__(self, date: bytes | None) -> None:
        self.date = date
