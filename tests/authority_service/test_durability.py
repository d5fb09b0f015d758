"""An authority that cannot write or read what it must, that is killed, and that is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from interceptor.authority.admission import AllowPattern
from interceptor.authority.refusal import Refused
from interceptor.authority_client import AuthorityRefusal
from interceptor.authority_service import EmbeddedAuthority, serve
from interceptor.authority_service.audit import Attempt, Audit
from interceptor.authority_service.desk import AuthorityDesk
from interceptor.errors import AuthorityError, AuthorityUnavailable, InterceptorError, StateError
from interceptor.identity.authority import Authority
from interceptor.identity.revocation import RevocationKind
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import TrustDomain
from tests.authority_service.forged import leaf
from tests.authority_service.running import DEADLINE_SECONDS, WEB, Service, raw
from tests.authority_service.test_api import report_of, svid_of, workload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from interceptor.authority_client import AuthorityClient

HOUR = timedelta(hours=1)


@contextmanager
def full_disk(service: Service) -> Iterator[None]:
    """Every write to the audit fails as on a full disk: the file is /dev/full meanwhile."""
    kept = service.audit_path.with_name("kept")
    service.audit_path.rename(kept)
    service.audit_path.symlink_to("/dev/full")
    yield
    service.audit_path.unlink()
    kept.rename(service.audit_path)


async def is_issued(client: AuthorityClient) -> bool:
    try:
        await svid_of(client)
    except AuthorityError:
        return False
    return True


async def is_refused(client: AuthorityClient) -> bool:
    return not await is_issued(client)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(DEADLINE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.02)


async def test_authority_that_cannot_write_its_audit_issues_nothing(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    client = await service.joined("node-a")
    token = service.token("node-b")
    with full_disk(service):
        for _ in range(2):
            with pytest.raises(
                AuthorityUnavailable, match=r"^authority_unavailable: .* cannot write its audit"
            ):
                await svid_of(client)
        with pytest.raises(AuthorityUnavailable, match="cannot write its audit"):
            await client.renew_node()
        with pytest.raises(AuthorityUnavailable, match="cannot write its audit"):
            await service.client("node-b").join(token)
        assert await client.trust(None) == client.document
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        f"nothing is issued: cannot write {service.audit_path} (No space left on device)"
    ]
    await svid_of(client)
    await service.client("node-b").join(token)  # it was not used up
    assert "is written again" in caplog.text


async def test_refusal_is_answered_also_when_it_cannot_be_written(service: Service) -> None:
    client = await service.joined("node-a", ["ns/default/sa/other"])
    with full_disk(service), pytest.raises(AuthorityRefusal, match=r"^identity_not_on_node: "):
        await svid_of(client)


async def test_database_that_cannot_be_read_is_not_trusted_for_long(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("interceptor.authority_service.view.STALE_SECONDS", 0.5)
    client = await service.joined("node-a")

    def fails() -> int:
        raise StateError("authority.db: the disk refused")

    with monkeypatch.context() as patch:
        patch.setattr(service.store, "version", fails)
        await until(lambda: is_refused(client))
        with pytest.raises(AuthorityUnavailable, match="cannot read its database: see its log there"):
            await svid_of(client)
        async with raw(service, None) as one:
            status, answer = await one.ask("GET", "/healthz")
        assert (status, answer["code"]) == (503, "authority_unavailable")
    await until(lambda: is_issued(client))
    assert caplog.text.count("cannot read the authority's database") == 1


async def test_database_that_cannot_be_written_refuses_the_join_and_keeps_the_token(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = service.token("node-a")

    def fails(*_: object) -> None:
        raise StateError("authority.db: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(service.store, "redeem_token", fails)
        with pytest.raises(AuthorityUnavailable, match="cannot write its database: see its log there"):
            await service.client("node-a").join(token)
    assert [line["event"] for line in service.audit()] == ["begun", "refused"]
    await service.client("node-a").join(token)


async def test_fault_of_ours_is_answered_and_ends_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = await service.joined("node-a")
    with monkeypatch.context() as patch:
        patch.setattr("interceptor.authority_service.desk._read", lambda _: 1 / 0)
        with pytest.raises(AuthorityUnavailable, match="internal error: see the authority's log"):
            await svid_of(client)
    assert "ZeroDivisionError" in caplog.text
    await svid_of(client)


async def test_service_says_why_it_cannot_start(service: Service, tmp_path: Path) -> None:
    async def start(audit_path: Path) -> None:
        await serve(
            service.store,
            service.endpoint,
            audit_path=audit_path,
            now=service.clock,
            ready=lambda _: None,
        )

    with pytest.raises(
        AuthorityError, match=rf"cannot listen on {service.endpoint} \(Address already in use\)"
    ):
        await start(tmp_path / "other.jsonl")
    with pytest.raises(InterceptorError, match="cannot write its audit"):
        await start(tmp_path / "missing" / "audit.jsonl")


async def test_services_own_certificate_is_renewed_in_time(service: Service) -> None:
    async with raw(service, None) as one:
        first = one.stream.presented_chain()[0]
    service.clock.off = timedelta(hours=13)
    async with raw(service, None) as one:
        second = one.stream.presented_chain()[0]
    assert second.serial_number != first.serial_number
    assert second.not_valid_before_utc > first.not_valid_before_utc + timedelta(hours=12)
    client = await service.joined("node-a")
    await svid_of(client)


async def test_service_that_cannot_renew_its_certificate_goes_on_with_the_old_one(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    client = await service.joined("node-a")
    service.clock.off = timedelta(hours=13)
    with full_disk(service):
        for _ in range(3):
            client.close()
            assert await client.trust(None) == client.document
    assert caplog.text.count("the service keeps its old certificate: authority_unavailable") == 1


async def test_authority_serves_while_its_root_key_is_elsewhere(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    service = Service(tmp_path)
    (key,) = (tmp_path / "authority" / "issuers").glob("*/root.key")
    key.rename(tmp_path / "in-a-safe")
    await service.start(nursery)
    client = await service.joined("node-a")
    await svid_of(client)
    assert (await client.renew_node()).spiffe_id.name == "node-a"
    await service.stop()
    service.close()


# The embedded one.


@pytest.fixture
async def desk(service: Service) -> AuthorityDesk:
    return AuthorityDesk(service.store, Audit(service.audit_path, service.clock), service.clock)


async def test_embedded_authority_gives_the_same_answers(
    service: Service, desk: AuthorityDesk, nursery: trio.Nursery
) -> None:
    nursery.start_soon(desk.views.run)
    embedded = EmbeddedAuthority(desk, "here")
    key = create_private_key()
    chain = await embedded.sign(create_signing_request(WEB, key), WEB, HOUR)
    assert chain[0].public_key() == key.public_key()
    line = service.audit("issued")[-1]
    assert (line["node"], line["identity"], line["peer"]) == ("here", str(WEB), "embedded")
    document = await embedded.trust(None)
    assert document == service.store.trust_document()
    known = (await embedded.registry(None)).version
    web = workload("web", "here", "10.1.0.1")
    client = await service.joined("node-a")
    await embedded.report(report_of(client, service.clock(), web))
    with trio.fail_after(DEADLINE_SECONDS):
        while not (registry := await embedded.registry(known)).workloads:
            known = registry.version
    assert registry.workloads == (web,)
    service.store.revoke(RevocationKind.IDENTITY, str(WEB), "stolen", service.clock())
    with trio.fail_after(DEADLINE_SECONDS):
        assert (await embedded.trust(document.document_hash)).revoked.find(str(WEB), ())
    with pytest.raises(AuthorityError, match=r"^identity_revoked: .*stolen"):
        await embedded.sign(create_signing_request(WEB, key), WEB, HOUR)
    assert service.audit("refused")[-1]["node"] == "here"


async def test_embedded_authority_tells_why_a_report_is_refused(
    service: Service, desk: AuthorityDesk
) -> None:
    embedded = EmbeddedAuthority(desk, "here")
    client = await service.joined("node-a")
    with pytest.raises(AuthorityError, match=r"^request_malformed: .*node-b"):
        await embedded.report(report_of(client, service.clock(), workload("web", "node-b", "10.1.0.1")))
    assert service.audit("refused")[-1]["code"] == "request_malformed"


async def test_embedded_authority_whose_own_certificate_has_ended_says_so(
    service: Service, desk: AuthorityDesk
) -> None:
    service.clock.off = timedelta(days=366)
    with pytest.raises(
        AuthorityError, match=r"^authority_unavailable: the authority's own certificate expired at"
    ):
        await EmbeddedAuthority(desk, "here").sign(
            create_signing_request(WEB, create_private_key()), WEB, HOUR
        )


async def test_embedded_authority_whose_database_cannot_be_read_says_so(
    service: Service, desk: AuthorityDesk, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interceptor.authority_service.view.STALE_SECONDS", 0.0)
    nursery.start_soon(desk.views.run)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(
        AuthorityError, match=r"^authority_unavailable: the authority cannot read its database"
    ):
        await EmbeddedAuthority(desk, "here").trust(None)


async def test_node_of_a_federated_trust_domain_is_none_of_ours_whatever_the_handshake_said(
    service: Service, desk: AuthorityDesk
) -> None:
    other = Authority.create(TrustDomain("other.example"), service.clock())
    service.store.federate(other.trust_bundle)
    await desk.views.look()
    shown = leaf(other, "spiffe://other.example/node/node-a")
    attempt = Attempt("GET /v1/trust", "somewhere")
    with pytest.raises(Refused, match=r"^node_not_authorised: .* is no node of cluster\.local"):
        desk.identify(attempt, (*shown.chain, other.root))
    assert (attempt.node, attempt.is_proven) == ("spiffe://other.example/node/node-a", False)


# A process of its own, killed.


@contextmanager
def process(service: Service) -> Iterator[subprocess.Popen[str]]:
    """`interceptor ca serve`, ready; killed at the end."""
    command = [sys.executable, "-m", "interceptor", "ca", "serve", "--listen", str(service.endpoint)]
    places = ["--dir", str(service.directory / "authority"), "--audit", str(service.audit_path)]
    with subprocess.Popen([*command, *places], stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            line = running.stderr.readline()
            assert line == f"serving the authority of cluster.local on {service.endpoint}\n", line
            yield running
        finally:
            running.kill()


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Service]:
    """An authority that nobody serves yet."""
    service = Service(tmp_path)
    yield service
    service.close()


async def test_service_that_is_killed_at_work_loses_nothing(stopped: Service) -> None:
    client, token = stopped.client("node-a"), stopped.token("node-a")
    issued = 0
    with process(stopped) as running:
        await client.join(token)

        async def ask_on() -> None:
            nonlocal issued
            while await is_issued(client):
                issued += 1

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask_on)
            with trio.fail_after(DEADLINE_SECONDS):
                while issued < 20:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            os.kill(running.pid, signal.SIGKILL)
    written = stopped.audit("issued")
    assert (
        issued <= len(written) - 1 <= issued + 4
    )  # a line for each that was handed out; those under way may have one
    with process(stopped):
        await svid_of(client)  # it still knows the node
        with pytest.raises(AuthorityRefusal, match=r"^token_used: "):
            await stopped.client("node-a").join(token)


async def test_service_ends_upon_a_signal_with_status_zero(stopped: Service) -> None:
    with process(stopped) as running:
        client = stopped.client("node-a")
        await client.join(stopped.token("node-a"))
        running.terminate()
        assert await trio.to_thread.run_sync(running.wait) == 0


async def test_commands_of_another_process_are_followed_by_a_running_service(stopped: Service) -> None:
    with process(stopped):
        client = await stopped.joined("node-a", ["ns/default/sa/other"])
        with pytest.raises(AuthorityRefusal, match=r"^identity_not_on_node"):
            await svid_of(client)
        stopped.store.set_allowed("node-a", (AllowPattern.parse("ns/default/sa/web"),))
        await until(lambda: is_issued(client))
