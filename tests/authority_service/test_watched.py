"""What the service tells those who watch it, scraped over HTTP while it works, and while it cannot."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import h11
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from interceptor.authority.reports import NodeReport
from interceptor.authority.rotation import Step
from interceptor.authority_service import view
from interceptor.authority_service.watched import serve_metrics, state_of
from interceptor.errors import AuthorityError, StateError
from interceptor.workload import Endpoint
from tests.authority_service.running import DEADLINE_SECONDS, Service, free_port, raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

Samples = dict[tuple[str, str], float]


@pytest.fixture
async def service(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Service]:
    service = Service(tmp_path)
    service.options["metrics"] = Endpoint(ip_address("127.0.0.1"), free_port())
    await service.start(nursery)
    yield service
    await service.stop()
    service.close()


async def get(service: Service, path: str) -> tuple[int, str]:
    connection, body, status = h11.Connection(h11.CLIENT), bytearray(), 0
    with trio.fail_after(DEADLINE_SECONDS):
        async with await trio.open_tcp_stream("127.0.0.1", service.options["metrics"].port) as stream:
            request = h11.Request(method="GET", target=path, headers=[("Host", "authority")])
            await stream.send_all(
                (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
            )
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
    return status, body.decode()


async def scraped(service: Service) -> Samples:
    """Values by name (without what all have in common) and the first label."""
    _, page = await get(service, "/metrics")
    return {
        (
            sample.name.removeprefix("interceptor_authority_"),
            sample.labels.get("kind") or next(iter(sample.labels.values()), ""),
        ): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def until(service: Service, wanted: Callable[[Samples], bool]) -> Samples:
    with trio.fail_after(DEADLINE_SECONDS):
        while not wanted(found := await scraped(service)):  # noqa: ASYNC110
            await trio.sleep(0.05)
    return found


async def test_metrics_say_what_was_issued_refused_and_who_is_there(service: Service) -> None:
    client = await service.joined("node-a")
    token = service.token("node-b")
    with trio.fail_after(DEADLINE_SECONDS):
        await service.client("node-b").join(token)
        with pytest.raises(AuthorityError, match="token_used"):
            await service.client("node-b").join(token)
    found = await until(service, lambda samples: samples["nodes", "silent"] == 2)
    assert found["certificates_issued_total", "node"] == 2
    assert found["certificates_issued_total", "service"] == 1
    assert found["refusals_total", "token_used"] == 1
    assert (
        found["refusals_total", "node_superseded"] == 0
    )  # there from the start, or no increase would be seen
    assert found["audit_writable", ""] == found["root_key_present", ""] == 1
    assert found["store_unread_seconds", ""] < 5
    assert found["not_after_seconds", "root"] == service.issuer.root.not_valid_after_utc.timestamp()
    assert found["not_after_seconds", "intermediate"] == service.issuer.not_after.timestamp()
    days = (found["intermediate_renewal_due_seconds", ""] - service.clock().timestamp()) / 86400
    assert days == pytest.approx(182.5, abs=0.1)
    assert await get(service, "/ready") == (200, "ready\n")
    assert client.document is not None


async def test_metrics_say_who_is_waited_for_in_a_rotation(service: Service) -> None:
    client = await service.joined("node-a")
    for step in (Step.PREPARE, Step.DISTRIBUTE):
        service.store.rotate(step, service.clock())
    found = await until(service, lambda samples: ("rotation_waiting_nodes", "distributed") in samples)
    assert found["rotation_waiting_nodes", "distributed"] == 1
    document = service.store.trust_document()
    report = NodeReport(document.bundle_hash, document.document_hash, (), (), service.clock())
    with trio.fail_after(DEADLINE_SECONDS):
        await client.trust(None)
        await client.report(report)
    service.store.create_token(
        "node-b", timedelta(minutes=1), service.store.nodes()[0].allowed, service.clock()
    )
    service.store.set_allowed("node-a", service.store.nodes()[0].allowed)  # so that the store is read anew
    await until(service, lambda samples: samples["rotation_waiting_nodes", "distributed"] == 0)
    state = state_of(view.read_view(service.store, service.clock()), 0.0)
    assert (state.phase, state.lagging, state.nodes) == ("distributed", 0, Counter(current=1))


async def test_audit_that_cannot_be_written_shows_until_it_can(service: Service) -> None:
    service.audit_path.unlink()
    service.audit_path.mkdir()
    with pytest.raises(AuthorityError, match="cannot write its audit"):
        await service.joined("node-a")
    assert (await scraped(service))["audit_writable", ""] == 0
    assert await get(service, "/ready") == (503, "the audit cannot be written, nothing is issued\n")
    async with raw(service, None) as client:
        status, answer = await client.ask("GET", "/healthz")
    assert (status, answer["code"]) == (503, "authority_unavailable")
    service.audit_path.rmdir()
    assert await get(service, "/ready") == (200, "ready\n")
    async with raw(service, None) as client:
        assert await client.ask("GET", "/healthz") == (200, {"status": "ok"})
    assert (await scraped(service))["audit_writable", ""] == 1
    assert [line["event"] for line in service.audit()] == ["written_again"]


async def test_database_that_cannot_be_read_shows_for_how_long(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interceptor.authority_service.watched.WORTH_TELLING_SECONDS", 0.4)

    def fails() -> int:
        raise StateError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(service.store, "version", fails)
        found = await until(service, lambda samples: samples["store_unread_seconds", ""] > 0.5)
        assert found["store_unread_seconds", ""] < DEADLINE_SECONDS
        status, said = await get(service, "/ready")
        assert status == 503
        assert said.startswith("the database is unread for ")
    await until(service, lambda samples: samples["store_unread_seconds", ""] < 0.4)


async def test_address_for_metrics_that_is_taken_is_told(service: Service) -> None:
    taken: Any = SimpleNamespace(audit=SimpleNamespace(counts=None))
    with pytest.raises(
        AuthorityError, match=r"cannot listen on .* for metrics .*: give --metrics a free port"
    ):
        await serve_metrics(taken, service.endpoint)


async def test_store_that_takes_long_to_read_leaves_half_of_the_time_to_those_who_ask(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, pauses = view.Views(service.store, service.clock), []
    version, sleep = service.store.version, trio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    def slow() -> int:
        time.sleep(3 * view.LOOK_SECONDS)
        return version()

    monkeypatch.setattr(service.store, "version", slow)
    monkeypatch.setattr(view, "trio", SimpleNamespace(**{**vars(trio), "sleep": noted}))
    with trio.move_on_after(DEADLINE_SECONDS) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(views.run)
            while len(pauses) < 2:
                await sleep(0.01)
            nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught
    assert pauses[0] == view.LOOK_SECONDS
    assert pauses[1] >= 3 * view.LOOK_SECONDS


async def test_intermediate_that_is_to_be_renewed_by_hand_is_told_in_the_log(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = service.issuer
    views = view.Views(service.store, service.clock)
    views.last = replace(views.last, issuer=replace(issuer, root_key=None))
    caplog.clear()
    for days in (10, 200, 201, 300, 301):
        service.clock.off = timedelta(days=days)
        views._tell()
    assert [record.getMessage().partition(":")[0].partition(",")[0] for record in caplog.records] == [
        "the intermediate certificate is due",
        "the intermediate certificate is late",
    ]
    assert "put root.key back" in caplog.text
