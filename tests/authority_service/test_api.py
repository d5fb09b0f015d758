"""What honest nodes ask, and what they are answered: through the client that nodes use."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address
from statistics import median
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from interceptor.authority.documents import NodeReport, RegisteredWorkload
from interceptor.authority.rotation import Step
from interceptor.authority_client import AuthorityClient, AuthorityRefusal
from interceptor.errors import AuthorityError, AuthorityUnavailable
from interceptor.identity.certificates import fingerprint
from interceptor.identity.node_id import NodeId
from interceptor.identity.revocation import RevocationKind
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from interceptor.identity.svid import X509Svid
from tests.authority_service.running import DOMAIN, WEB, Clock, Service, raw

if TYPE_CHECKING:
    from datetime import datetime

HOUR = timedelta(hours=1)
AT_ONCE_SECONDS = 0.5  # within which every waiting node hears of a change


async def svid_of(client: AuthorityClient, spiffe_id: SpiffeId = WEB, lifetime: timedelta = HOUR) -> X509Svid:
    key = create_private_key()
    chain = await client.sign(create_signing_request(spiffe_id, key), spiffe_id, lifetime)
    return X509Svid(spiffe_id, chain, key, Clock()())


def report_of(client: AuthorityClient, now: datetime, *workloads: RegisteredWorkload) -> NodeReport:
    document = client.document
    assert document is not None
    issuers = tuple(fingerprint(root) for root in document.trust_bundles().roots)
    return NodeReport(document.bundle_hash, document.document_hash, issuers, workloads, now)


def workload(name: str, node: str, address: str) -> RegisteredWorkload:
    return RegisteredWorkload("default", name, name, (ip_address(address),), node, {})


async def test_node_joins_and_gets_its_identity_and_what_to_believe(service: Service) -> None:
    client = await service.joined("node-a")
    assert client.svid is not None
    assert client.svid.spiffe_id == NodeId(DOMAIN, "node-a")
    assert client.document == service.store.trust_document()
    begun, issued = service.audit()
    assert (begun["event"], begun["node"]) == ("begun", "node-a")
    assert (issued["event"], issued["request"], issued["node"]) == ("issued", "POST /v1/join", "node-a")
    assert issued["identity"] == "spiffe://cluster.local/node/node-a"
    assert issued["serial"] == client.svid.serial_number
    assert issued["peer"].startswith("127.0.0.1:")


async def test_audit_is_for_its_owner_only_and_holds_no_secret(service: Service) -> None:
    token = service.token("node-a")
    await service.client("node-a").join(token)
    with pytest.raises(AuthorityRefusal, match=r"^token_used: "):
        await service.client("node-a").join(token)
    assert service.audit_path.stat().st_mode & 0o777 == 0o600
    text = service.audit_path.read_text()
    assert "token_used" in text
    assert token.rpartition(".")[2] not in text


async def test_workload_gets_a_certificate_that_its_peers_accept(service: Service) -> None:
    client = await service.joined("node-a")
    svid = await svid_of(client)
    assert client.document is not None
    chain = (*svid.chain, *service.roots)
    assert client.document.trust_bundles().identify(chain, service.clock()) == WEB
    assert HOUR < svid.not_after - svid.not_before <= HOUR + timedelta(seconds=61)
    line = service.audit("issued")[-1]
    assert (line["node"], line["identity"], line["serial"]) == ("node-a", str(WEB), svid.serial_number)


async def test_many_certificates_at_once_come_over_connections_that_are_kept(service: Service) -> None:
    client = await service.joined("node-a")
    serials = set()

    async def one(number: int) -> None:
        serials.add((await svid_of(client, SpiffeId(DOMAIN, "default", f"w{number}"))).serial_number)

    for _ in range(10):
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(one, number)
    assert len(serials) == 80
    assert len({line["peer"] for line in service.audit("issued")}) == 1 + 8  # one of them to join


async def test_node_renews_itself_with_itself(service: Service) -> None:
    client = await service.joined("node-a")
    first = client.svid
    assert first is not None
    second = await client.renew_node()
    assert client.svid is second
    assert second.serial_number != first.serial_number
    assert second.private_key.public_key() != first.private_key.public_key()
    await svid_of(client)


async def test_trust_document_comes_at_once_when_it_is_not_the_known_one(service: Service) -> None:
    client = await service.joined("node-a")
    for known in (None, "sha256:" + "0" * 64):
        with trio.fail_after(2):
            assert await client.trust(known) == service.store.trust_document()


async def test_revocation_by_another_process_reaches_a_waiting_node_at_once(service: Service) -> None:
    client = await service.joined("node-a")
    elsewhere = service.open_store()
    delays = []
    for number in range(5):
        assert client.document is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.trust, client.document.document_hash)
            await trio.testing.wait_all_tasks_blocked(0.05)
            elsewhere.revoke(RevocationKind.SERIAL, f"{number + 1:x}", "stolen", service.clock())
            changed_at = trio.current_time()
        delays.append(trio.current_time() - changed_at)
        assert client.document.revoked.find("", [f"{number + 1:x}"]) is not None
    assert median(delays) < AT_ONCE_SECONDS
    elsewhere.revoke(RevocationKind.IDENTITY, str(WEB), "lost", service.clock())
    elsewhere.close()
    await client.trust(client.document.document_hash)
    with pytest.raises(AuthorityRefusal, match=r"^identity_revoked: .*lost"):
        await svid_of(client)
    assert service.audit("refused")[-1]["identity"] == str(WEB)


async def test_workload_of_one_node_is_told_to_the_others_at_once(service: Service) -> None:
    here, there = await service.joined("node-a"), await service.joined("node-b")
    known = (await there.registry(None)).version
    web = workload("web", "node-a", "10.1.0.1")
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with trio.fail_after(AT_ONCE_SECONDS + 1):
                registry = await there.registry(known)
            assert registry.workloads == (web,)

        nursery.start_soon(wait)
        await here.report(report_of(here, service.clock(), web))
    record = service.store.node("node-a")
    assert record is not None
    assert record.report is not None
    assert record.report.workloads == (web,)


async def test_poll_that_nothing_answers_is_begun_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interceptor.authority_client.client.LONG_POLL_SECONDS", 1)
    client = await service.joined("node-a")
    assert client.document is not None
    with trio.move_on_after(2.5) as scope:
        await client.trust(client.document.document_hash)
    assert scope.cancelled_caught


async def test_poll_without_news_is_answered_304(service: Service) -> None:
    client = await service.joined("node-a")
    document = service.store.trust_document()
    async with raw(service, client.svid) as one:
        assert await one.ask("GET", f"/v1/trust?known={document.document_hash}") == (304, {})
        assert await one.ask("GET", f"/v1/trust?wait=0&known={document.document_hash}") == (304, {})
        version = service.store.registry().version
        assert await one.ask("GET", f"/v1/registry?known={version}") == (304, {})
        status, answer = await one.ask("GET", f"/v1/registry?known={version + 1}&wait=60")
        assert (status, answer["version"]) == (200, version)


async def test_health_is_for_everybody_and_says_nothing_else(service: Service) -> None:
    async with raw(service, None) as one:
        assert await one.ask("GET", "/healthz") == (200, {"status": "ok"})


async def test_client_goes_on_after_the_service_was_restarted(
    service: Service, nursery: trio.Nursery
) -> None:
    client = await service.joined("node-a")
    await svid_of(client)
    await service.stop()
    with pytest.raises(AuthorityUnavailable, match=r"cannot be reached: Connection refused"):
        await svid_of(client)
    await service.start(nursery)
    await svid_of(client)
    await service.stop()
    await service.start(nursery)
    await svid_of(client)  # its connection died while it was idle


async def test_node_that_has_not_joined_is_told_how(service: Service) -> None:
    with pytest.raises(AuthorityError, match="has not joined yet: give it a token"):
        await svid_of(service.client("node-a"))


async def test_node_resumes_with_what_an_earlier_run_had(service: Service) -> None:
    before = await service.joined("node-a")
    assert before.svid is not None
    assert before.document is not None
    after = service.client("node-a")
    after.resume(before.svid, before.document)
    await svid_of(after)
    with pytest.raises(AuthorityError, match=r"cannot be spiffe://cluster.local/node/node-b with"):
        service.client("node-b").resume(before.svid, before.document)


async def test_rotation_reaches_certificates_and_the_services_own(service: Service) -> None:
    client = await service.joined("node-a")
    assert client.document is not None
    (old,) = service.roots
    service.store.rotate(Step.PREPARE, service.clock())
    service.store.rotate(Step.DISTRIBUTE, service.clock())
    await client.trust(client.document.document_hash)
    (new,) = set(service.roots) - {old}
    await client.report(report_of(client, service.clock()))
    service.store.rotate(Step.ACTIVATE, service.clock())
    with trio.fail_after(5):
        while (await svid_of(client)).chain[1].issuer != new.subject:  # noqa: ASYNC110 - a file has no event
            await trio.sleep(0.05)
    assert (await client.renew_node()).chain[1].issuer == new.subject
    async with raw(service, client.svid) as one:
        assert one.stream.presented_chain()[-1] == new


async def test_node_of_another_trust_domain_finds_no_authority_here(service: Service) -> None:
    client = AuthorityClient(service.endpoint, TrustDomain("other.example"), "node-a", service.clock)
    with pytest.raises(AuthorityError, match="what answers is not the authority"):
        await client.join(service.token("node-a"))
