"""What the authority refuses, each with its code to the node and a line in the audit."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio
from cryptography.x509.oid import ExtendedKeyUsageOID

from interceptor.authority.node_documents import Join, RenewNode
from interceptor.authority_client import AuthorityRefusal
from interceptor.authority_service import DeskLimits
from interceptor.errors import AuthorityError, AuthorityUnavailable
from interceptor.identity.authority import Authority
from interceptor.identity.node_id import NodeId
from interceptor.identity.revocation import RevocationKind
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain
from tests.authority_service import forged
from tests.authority_service.forged import NAME, REQUESTS, csr, leaf
from tests.authority_service.running import (
    DOMAIN,
    WEB,
    Clock,
    Service,
    fresh,
    is_sent_away,
    issue_body,
    pem,
    raw,
    refusal,
)

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.authority_client import AuthorityClient
    from interceptor.identity.svid import NodeSvid

HOUR, DAY, YEAR = timedelta(hours=1), timedelta(days=1), timedelta(days=365)
NODE = "spiffe://cluster.local/node/node-a"


@pytest.fixture
async def node(service: Service) -> NodeSvid:
    """A node that may have web and what begins with 'db-' in the namespace default."""
    client = await service.joined("node-a", ["ns/default/sa/web", "ns/default/sa/db-*"])
    assert client.svid is not None
    return client.svid


def join_body(
    service: Service, token: str, node: str = "node-a", csr_pem: str | None = None, **more: object
) -> bytes:
    request = csr_pem or pem(create_signing_request(NodeId(DOMAIN, node), create_private_key()))
    return Join(token, node, request, **{**fresh(service), **more}).to_json()


async def sign(client: AuthorityClient, spiffe_id: SpiffeId = WEB) -> None:
    request = create_signing_request(spiffe_id, create_private_key())
    await client.sign(request, spiffe_id, HOUR)


# Tokens.


async def test_token_used_twice_at_the_same_instant_lets_one_node_in(service: Service) -> None:
    token = service.token("node-a")
    outcomes: list[str] = []

    async def attempt() -> None:
        try:
            await service.client("node-a").join(token)
        except AuthorityRefusal as error:
            outcomes.append(error.code)
        else:
            outcomes.append("joined")

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(attempt)
    assert sorted(outcomes) == ["joined"] + ["token_used"] * 7
    assert len(service.audit("issued")) == 1
    assert [line["node"] for line in service.audit("refused")] == ["node-a"] * 7


async def test_token_used_at_the_same_instant_by_two_processes_lets_one_node_in(service: Service) -> None:
    """The other one is not of this service: it has the database open by itself."""
    token, elsewhere = service.token("node-a"), service.open_store()
    outcomes: list[str] = []

    async def here() -> None:
        try:
            await service.client("node-a").join(token)
        except AuthorityRefusal as error:
            outcomes.append(error.code)
        else:
            outcomes.append("joined")

    async def there() -> None:
        try:
            await trio.to_thread.run_sync(elsewhere.redeem_token, token, "node-a", service.clock())
        except Exception as error:
            outcomes.append(str(error).partition(":")[0])
        else:
            outcomes.append("joined")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(here)
        nursery.start_soon(there)
    elsewhere.close()
    assert sorted(outcomes) == ["joined", "token_used"]


async def test_token_of_another_node_is_refused_and_stays_good(service: Service) -> None:
    token = service.token("node-b")
    body = join_body(service, token)
    code, _ = await refusal(service, None, "POST", "/v1/join", body)
    assert code == "token_for_other_node"
    await service.client("node-b").join(token)


async def test_token_that_nobody_made_is_refused(service: Service) -> None:
    good = service.token("node-a")
    forged_secret = good[:-43] + "A" * 43
    for token in (forged_secret, "it1.x.y.z", ""):
        code, message = await refusal(service, None, "POST", "/v1/join", join_body(service, token))
        assert code == "token_invalid"
        assert not token or token.rpartition(".")[2] not in message
    await service.client("node-a").join(good)


async def test_token_after_its_time_is_refused(service: Service) -> None:
    token = service.token("node-a", ttl=timedelta(minutes=10))
    service.clock.off = timedelta(minutes=11)
    code, _ = await refusal(service, None, "POST", "/v1/join", join_body(service, token))
    assert code == "token_expired"


async def test_bad_signing_request_does_not_use_the_token_up(service: Service) -> None:
    token = service.token("node-a")
    body = join_body(service, token, csr_pem=csr("spiffe://cluster.local/node/node-b"))
    code, _ = await refusal(service, None, "POST", "/v1/join", body)
    assert code == "signing_request_refused"
    await service.client("node-a").join(token)


@pytest.mark.parametrize("name", ["Node-A", "../node-a", "", "node a", "node-a\n", "*"])
async def test_node_with_a_name_that_is_none_is_refused(service: Service, name: str) -> None:
    body = join_body(service, service.token("node-a"), csr_pem=csr(NODE)).replace(
        b'"node":"node-a"', f'"node":"{name}"'.replace("\n", "\\n").encode()
    )
    code, _ = await refusal(service, None, "POST", "/v1/join", body)
    assert code == "request_malformed"


# Who asks.


async def test_stranger_without_certificate_is_refused_everything_but_to_join(service: Service) -> None:
    for method, path in (
        ("POST", "/v1/node"),
        ("POST", "/v1/issue"),
        ("POST", "/v1/report"),
        ("GET", "/v1/trust"),
        ("GET", "/v1/registry"),
    ):
        code, message = await refusal(service, None, method, path)
        assert (code, message) == ("node_not_authorised", "the request came without a client certificate")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        (NAME, "names no node"),
        ("spiffe://cluster.local/authority", "names no node"),
        ("spiffe://cluster.local/node/node-b", "has not joined, or was removed"),
        ("https://cluster.local/node/node-a", "does not begin with spiffe://"),
        ("spiffe://cluster.local/node/node-a/x", "names no node"),
        ("spiffe://cluster.local/node/node-a\0", "control character"),
    ],
)
async def test_certificate_that_is_no_nodes_is_refused(
    service: Service, node: NodeSvid, uri: str, told: str
) -> None:
    code, message = await refusal(service, leaf(service.issuer, uri), "GET", "/v1/trust")
    assert code == "node_not_authorised"
    assert told in message


async def test_workloads_certificate_is_not_a_nodes(service: Service, node: NodeSvid) -> None:
    """The one that the node got for its workload, used to ask for more."""
    key = create_private_key()
    chain = service.issuer.sign(create_signing_request(WEB, key), WEB, HOUR, service.clock())
    code, _ = await refusal(
        service, forged.Shown(chain, key), "POST", "/v1/issue", issue_body(service, csr(NAME))
    )
    assert code == "node_not_authorised"


@pytest.mark.parametrize(
    ("begins", "ends", "code", "told"),
    [
        (-2 * HOUR, -HOUR, "node_identity_expired", "expired at"),
        (HOUR, 2 * HOUR, "node_identity_not_yet_valid", "is not valid before"),
    ],
)
async def test_nodes_certificate_out_of_its_time_gets_a_code_and_no_alert(
    service: Service, node: NodeSvid, begins: timedelta, ends: timedelta, code: str, told: str
) -> None:
    for path in ("/v1/node", "/v1/issue"):
        shown = leaf(service.issuer, NODE, begins=begins, ends=ends)
        found, message = await refusal(service, shown, "POST", path)
        assert found == code
        assert told in message
        line = service.audit("refused")[-1]
        assert line["peer"].startswith("127.0.0.1:")
        assert line["node"] == "node-a"
        assert line["certificate"]["identity"] == NODE


@pytest.mark.parametrize("kind", [RevocationKind.NODE, RevocationKind.SERIAL])
async def test_revoked_node_is_refused_also_on_the_connection_that_it_has(
    service: Service, node: NodeSvid, kind: RevocationKind
) -> None:
    value = NODE if kind is RevocationKind.NODE else node.serial_number
    async with raw(service, node) as client:
        assert (await client.ask("GET", "/v1/trust"))[0] == 200
        service.store.revoke(kind, value, "lost", service.clock())
        with trio.fail_after(5):
            while (answer := await client.ask("GET", "/v1/trust"))[0] == 200:  # noqa: ASYNC110
                await trio.sleep(0.02)
    assert answer[1]["code"] == "node_revoked"
    assert "lost" in answer[1]["message"]
    assert (await refusal(service, node, "POST", "/v1/issue"))[0] == "node_revoked"
    assert (await refusal(service, node, "POST", "/v1/node"))[0] == "node_revoked"


async def test_removed_node_is_refused(service: Service, node: NodeSvid) -> None:
    service.store.remove_node("node-a")
    async with raw(service, node) as client:
        with trio.fail_after(5):
            while (answer := await client.ask("GET", "/v1/trust"))[0] == 200:  # noqa: ASYNC110
                await trio.sleep(0.02)
    assert answer[1]["code"] == "node_not_authorised"


async def test_certificate_from_before_the_node_joined_anew_is_refused(service: Service) -> None:
    stolen = (await service.joined("node-a")).svid
    service.clock.off = timedelta(seconds=3)
    again = await service.joined("node-a")
    code, message = await refusal(service, stolen, "GET", "/v1/trust")
    assert code == "node_superseded"
    assert "is from before it joined anew" in message
    await sign(again)


async def test_node_that_was_removed_and_asks_on_leaves_one_line_a_minute(service: Service) -> None:
    client = await service.joined("node-a")
    assert client.svid is not None
    service.store.remove_node("node-a")
    for path in ("/v1/trust", "/v1/registry") * 10:
        async with raw(service, client.svid) as shown:
            with trio.fail_after(5):
                while (await shown.ask("GET", path))[0] == 200:
                    pass
    (line,) = service.audit("refused")
    assert (line["code"], line["node"], line["repeated"]) == ("node_not_authorised", "node-a", 0)
    assert line["certificate"] == {"identity": NODE, "serial": client.svid.serial_number}


async def test_chain_that_leads_nowhere_ends_the_handshake(service: Service, node: NodeSvid) -> None:
    stranger = Authority.create(DOMAIN, service.clock())
    assert await is_sent_away(service, leaf(stranger, NODE))
    assert await is_sent_away(service, leaf(service.issuer, NODE, self_signed=True))
    assert await is_sent_away(service, leaf(service.issuer, "spiffe://other.example/node/node-a"))
    assert await is_sent_away(service, leaf(service.issuer, NODE, usages=[ExtendedKeyUsageOID.SERVER_AUTH]))
    assert not await is_sent_away(service, node)
    lines = service.audit("refused")
    assert [(line["request"], line["code"]) for line in lines] == [("handshake", "node_not_authorised")] * 4
    assert all("is not trusted: " in line["message"] for line in lines)
    assert all(line["peer"].startswith("127.0.0.1:") for line in lines)


async def test_node_of_a_federated_trust_domain_is_no_node_of_ours(service: Service) -> None:
    other = Authority.create(TrustDomain("other.example"), service.clock())
    client = await service.joined("node-b")
    service.store.federate(other.trust_bundle)
    assert client.document is not None
    with trio.fail_after(5):
        await client.trust(client.document.document_hash)
    assert await is_sent_away(service, leaf(other, "spiffe://other.example/node/node-a"))


# What it asks for.


@pytest.mark.parametrize("flaw", REQUESTS)
async def test_bad_signing_request_is_refused(service: Service, node: NodeSvid, flaw: str) -> None:
    before = len(service.audit("issued"))
    code, message = await refusal(service, node, "POST", "/v1/issue", issue_body(service, REQUESTS[flaw]()))
    assert code == "signing_request_refused", message
    assert len(service.audit("issued")) == before
    line = service.audit("refused")[-1]
    assert (line["node"], line["identity"]) == ("node-a", NAME)


@pytest.mark.parametrize(("size", "code"), [(12_500, "request_malformed"), (1_000_000, "request_too_large")])
async def test_signing_request_with_large_extensions_is_refused(
    service: Service, node: NodeSvid, size: int, code: str
) -> None:
    body = issue_body(service, forged.with_extensions_of(size))
    assert (await refusal(service, node, "POST", "/v1/issue", body))[0] == code


async def test_signing_request_gets_nothing_but_the_key_certified(service: Service, node: NodeSvid) -> None:
    """What is asked for beyond the name is ignored: usages, other extensions."""
    request = csr(NAME, more=[forged.x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])])
    async with raw(service, node) as client:
        status, answer = await client.ask("POST", "/v1/issue", issue_body(service, request))
    assert status == 200
    certificate = forged.x509.load_pem_x509_certificate(answer["certificates_pem"].encode())
    usages = certificate.extensions.get_extension_for_class(forged.x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("spiffe://cluster.local/ns/default/sa/db-1", None),
        ("spiffe://cluster.local/ns/default/sa/db", "identity_not_on_node"),
        ("spiffe://cluster.local/ns/other/sa/web", "identity_not_on_node"),
        ("spiffe://cluster.local/ns/default/sa/webx", "identity_not_on_node"),
        ("spiffe://other.example/ns/default/sa/web", "trust_domain_mismatch"),
        ("spiffe://cluster.local/node/node-a", "request_malformed"),
        ("spiffe://cluster.local/node/node-b", "request_malformed"),
        ("spiffe://cluster.local/authority", "request_malformed"),
        ("spiffe://cluster.local/ns/default/sa/../sa/web", "request_malformed"),
        ("spiffe://cluster.local/ns/default/sa/*", "request_malformed"),
        ("spiffe://cluster.local/ns/default/sa/WEB", "request_malformed"),
        ("spiffe://cluster.local/ns//sa/web", "request_malformed"),
        ("spiffe://cluster.local/ns/default/sa/web\n", "request_malformed"),
        ("", "request_malformed"),
    ],
)
async def test_identity_that_is_not_the_nodes_to_ask_for_is_refused(
    service: Service, node: NodeSvid, uri: str, code: str | None
) -> None:
    body = issue_body(service, csr(uri or NAME), uri)
    if code is None:
        async with raw(service, node) as client:
            assert (await client.ask("POST", "/v1/issue", body))[0] == 200
        return
    assert (await refusal(service, node, "POST", "/v1/issue", body))[0] == code


async def test_node_that_asks_for_another_nodes_workload_is_told_what_it_may(service: Service) -> None:
    await service.joined("node-b", ["ns/default/sa/vault"])
    client = await service.joined("node-a", ["ns/default/sa/web"])
    with pytest.raises(
        AuthorityRefusal, match=r"^identity_not_on_node: node-a may not have .*/sa/vault"
    ) as caught:
        await sign(client, SpiffeId(DOMAIN, "default", "vault"))
    assert "allowed is: ns/default/sa/web" in str(caught.value)
    line = service.audit("refused")[-1]
    assert line["node"] == "node-a"
    assert line["identity"] == "spiffe://cluster.local/ns/default/sa/vault"


async def test_certificate_for_longer_than_a_day_is_refused(service: Service, node: NodeSvid) -> None:
    body = issue_body(service, csr(NAME), lifetime=24 * 3600 + 1)
    code, message = await refusal(service, node, "POST", "/v1/issue", body)
    assert code == "request_malformed"
    assert "longer than 24 h" in message


async def test_node_cannot_renew_itself_as_another(service: Service, node: NodeSvid) -> None:
    body = RenewNode(csr("spiffe://cluster.local/node/node-b"), **fresh(service)).to_json()
    assert (await refusal(service, node, "POST", "/v1/node", body))[0] == "signing_request_refused"


# When it asks.


async def test_request_that_is_sent_again_is_refused(service: Service, node: NodeSvid) -> None:
    body = issue_body(service, csr(NAME))
    async with raw(service, node) as client:
        assert (await client.ask("POST", "/v1/issue", body))[0] == 200
    code, _ = await refusal(service, node, "POST", "/v1/issue", body)
    assert code == "request_replayed"
    service.clock.off = timedelta(seconds=90)
    code, message = await refusal(service, node, "POST", "/v1/issue", body)
    assert code == "clock_skew"
    assert "behind" in message


@pytest.mark.parametrize(
    ("off", "told"),
    [
        (timedelta(minutes=5), "node-a's clock is 300 s ahead of the authority's"),
        (timedelta(minutes=-5), "node-a's clock is 300 s behind the authority's"),
        (YEAR, "node-a's clock is 31536000 s ahead of the authority's"),
        (-YEAR, "node-a's clock is 31536000 s behind the authority's"),
    ],
)
async def test_request_by_a_wrong_clock_names_the_skew(
    service: Service, node: NodeSvid, off: timedelta, told: str
) -> None:
    frozen = service.clock()
    service.clock.__class__ = _Frozen
    service.clock.at = frozen  # type: ignore[attr-defined]
    for path, body in (
        ("/v1/issue", issue_body(service, csr(NAME), at=frozen + off)),
        ("/v1/join", join_body(service, service.token("node-a"), at=frozen + off)),
    ):
        code, message = await refusal(service, node, "POST", path, body)
        assert code == "clock_skew"
        assert message.startswith(told)


class _Frozen(Clock):
    def __call__(self) -> object:  # type: ignore[override]
        return self.at  # type: ignore[attr-defined]


@pytest.mark.parametrize(("off", "side"), [(YEAR, "ahead of"), (-YEAR, "behind")])
async def test_node_whose_clock_is_a_year_off_is_told_by_its_own_client(
    service: Service, off: timedelta, side: str
) -> None:
    clock = Clock()
    client = await service.joined("node-a", clock=clock)
    clock.off = off
    client.close()
    with pytest.raises(
        AuthorityUnavailable, match=rf"^clock_skew: .* is at least 3\d{{7}} s {side} the auth"
    ):
        await sign(client)
    with pytest.raises(
        AuthorityUnavailable, match=rf"^clock_skew: .* s {side} the authority's, set it by NTP(; or .*)?$"
    ):
        await service.client("node-b", clock).join(service.token("node-b"))


async def test_node_whose_clock_is_five_minutes_off_is_told_by_the_authority(service: Service) -> None:
    clock = Clock()
    client = await service.joined("node-a", clock=clock)
    clock.off = timedelta(minutes=5)
    with pytest.raises(
        AuthorityUnavailable, match=r"^clock_skew: node-a's clock is 300 s ahead of the authority's"
    ):
        await sign(client)
    clock.off = timedelta(0)
    await sign(client)


async def test_node_that_asks_too_often_is_slowed_down_alone(tmp_path: Path, nursery: trio.Nursery) -> None:
    limits = DeskLimits(issues_per_second=0.5, issues_at_once=3, joins_per_second=0.1, joins_at_once=2)
    service = Service(tmp_path, options={"desk_limits": limits})
    await service.start(nursery)
    hasty, other = await service.joined("node-a"), await service.joined("node-b")
    for _ in range(3):
        await sign(hasty)
    with pytest.raises(AuthorityUnavailable, match=r"^rate_limited: node-a made more than 3 requests"):
        await sign(hasty)
    await sign(other)
    with pytest.raises(AuthorityError, match=r"^rate_limited: 127\.0\.0\.1 made more than 2 requests"):
        await service.joined("node-c")
    await service.stop()
    service.close()


# What is no request of ours.


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b"{", b"\xff\xfe", b'{"a":1,"a":2}', b"[" * 30_000, b'{"spiffe_id":1}'],
)
async def test_body_that_is_no_document_is_refused(service: Service, node: NodeSvid, body: bytes) -> None:
    assert (await refusal(service, node, "POST", "/v1/issue", body))[0] == "request_malformed"


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("GET", "/", "not_found"),
        ("GET", "/v1/issue", "not_found"),
        ("PUT", "/v1/issue", "not_found"),
        ("GET", "/v1/../v1/trust", "not_found"),
        ("GET", "/v1/trust?wait=-1", "request_malformed"),
        ("GET", "/v1/trust?wait=1e9", "request_malformed"),
        ("GET", "/v1/trust?known=" + "x" * 101, "request_malformed"),
        ("GET", "/v1/trust?x", "request_malformed"),
        ("GET", "/v1/trust?" + "a=1&" * 9, "request_malformed"),
        ("GET", "/v1/registry?known=x", "request_malformed"),
    ],
)
async def test_request_outside_the_api_is_refused(
    service: Service, node: NodeSvid, method: str, target: str, code: str
) -> None:
    assert (await refusal(service, node, method, target))[0] == code


async def test_report_of_another_nodes_workload_is_refused(service: Service, node: NodeSvid) -> None:
    now = fresh(service)["at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    workload = '{"addresses":["10.1.0.1"],"labels":{},"name":"web","namespace":"default","node":"%s","service_account":"%s"}'
    for name, account, code in (("node-b", "web", None), ("node-a", "vault", "identity_not_on_node")):
        body = (
            f'{{"at":"{now}","bundle_hash":"sha256:{"0" * 64}","document_hash":"sha256:{"0" * 64}","issuers":[],'
            f'"workloads":[{workload % (name, account)}]}}'
        )
        found, _ = await refusal(service, node, "POST", "/v1/report", body.encode())
        assert found == (code or "request_malformed")
    assert service.store.registry().workloads == ()
