"""A node that lost its key comes back with its return token: once, whoever tries, and not without a trace."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.authority.return_tokens import ReturnToken
from interceptor.authority_client import AuthorityRefusal
from interceptor.authority_service import DeskLimits
from interceptor.errors import AuthorityError
from interceptor.identity.revocation import RevocationKind
from tests.authority_service.running import DEADLINE_SECONDS, Service, raw
from tests.authority_store.helpers import full_disk

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.authority_client import AuthorityClient

A = "node-a"
NODE = "spiffe://cluster.local/node/node-a"


def drawn() -> ReturnToken:
    return ReturnToken(os.urandom(32))


class Returning:
    """A node that has joined, and what is on its disk."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.token = drawn()

    async def join(self) -> AuthorityClient:
        client = self.service.client(A)
        with trio.fail_after(DEADLINE_SECONDS):
            await client.join(self.service.token(A, ("ns/shop/sa/*",)), self.token.hash())
        assert client.return_until is not None
        return client

    async def back(self, token: ReturnToken, offered: ReturnToken | None = None) -> AuthorityClient:
        """After a boot: a client that has nothing but the disk."""
        client = self.service.client(A)
        with trio.fail_after(DEADLINE_SECONDS):
            document = self.service.store.trust_document()
            await client.come_back(token.text(), document, "" if offered is None else offered.hash())
        return client

    async def refused(self, token: ReturnToken, offered: ReturnToken | None = None) -> str:
        with pytest.raises(AuthorityRefusal) as caught:
            await self.back(token, offered)
        return caught.value.code


@pytest.fixture
def node(service: Service) -> Returning:
    return Returning(service)


async def test_node_comes_back_as_itself_with_a_new_key(service: Service, node: Returning) -> None:
    first, following = await node.join(), drawn()
    again = await node.back(node.token, following)
    assert again.svid is not None
    assert first.svid is not None
    assert again.svid.spiffe_id == first.svid.spiffe_id
    assert again.svid.private_key != first.svid.private_key
    assert again.return_until == pytest.approx(
        service.clock() + timedelta(hours=96), abs=timedelta(minutes=1)
    )
    record = service.store.node(A)
    assert record is not None
    assert [str(pattern) for pattern in record.allowed] == ["ns/shop/sa/*"]
    begun, issued = service.audit()[-2:]
    assert (begun["event"], issued["event"]) == ("begun", "issued")
    assert begun["by"] == issued["by"] == "return token"
    text = service.audit_path.read_text()
    for token in (node.token, following):
        assert token.text()[4:] not in text
        assert token.hash() not in text


async def test_node_that_renews_makes_the_copy_of_its_disk_worthless(
    service: Service, node: Returning
) -> None:
    client, following = await node.join(), drawn()
    with trio.fail_after(DEADLINE_SECONDS):
        await client.renew_node(following.hash())
    assert client.return_until is not None
    assert await node.refused(node.token, drawn()) == "return_token_replaced"
    line = service.audit("refused")[-1]
    assert (line["node"], line["code"]) == (A, "return_token_replaced")
    await node.back(following)


async def test_of_two_that_use_one_token_at_the_same_instant_one_gets_in(
    service: Service, node: Returning
) -> None:
    await node.join()
    found: list[str] = []

    async def use() -> None:
        try:
            await node.back(node.token, drawn())
            found.append("in")
        except AuthorityRefusal as refused:
            found.append(refused.code)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(use)
    assert sorted(found) == ["in", *["return_token_used"] * 7]


async def test_thief_who_comes_first_is_noticed_by_the_node_and_in_the_audit(
    service: Service, node: Returning
) -> None:
    real = await node.join()
    service.clock.off = timedelta(seconds=3)  # the copy was made, and is used, a while after the node joined
    with trio.fail_after(DEADLINE_SECONDS):
        await real.registry(None)  # the node is there, and is heard
    await node.back(node.token, drawn())
    (alarm,) = service.audit("returned_while_active")
    assert (alarm["node"], alarm["by"]) == (A, "return token")
    assert alarm["last_heard_seconds"] < 60
    assert real.svid is not None
    async with raw(service, real.svid) as client:
        status, answer = await client.ask("GET", "/v1/registry")
    assert (status, answer["code"]) == (401, "node_superseded")
    assert await node.refused(node.token, drawn()) == "return_token_used"
    codes = [line["code"] for line in service.audit("refused")]
    assert codes == ["node_superseded", "return_token_used"]
    service.store.revoke(RevocationKind.NODE, NODE, "disk copied", service.clock())


async def test_answer_that_is_lost_locks_nobody_out(service: Service, node: Returning) -> None:
    await node.join()
    following, after = drawn(), drawn()
    await node.back(node.token, following)  # and the node hears nothing of it
    assert await node.refused(node.token, following) == "return_token_advanced"
    await node.back(following, after)
    assert await node.refused(node.token, following) == "return_token_used"


async def test_renewal_whose_answer_is_lost_leaves_a_way_back(service: Service, node: Returning) -> None:
    client, following = await node.join(), drawn()
    with trio.fail_after(DEADLINE_SECONDS):
        await client.renew_node(following.hash())
        await client.renew_node(following.hash())  # the node asks again with the same offer
    assert await node.refused(node.token, following) == "return_token_advanced"
    await node.back(following)


async def test_node_without_a_token_for_later_is_let_in_all_the_same(
    service: Service, node: Returning
) -> None:
    await node.join()
    client = await node.back(node.token)
    assert client.return_until is None
    following = drawn()
    with trio.fail_after(DEADLINE_SECONDS):
        await client.renew_node(following.hash())
    await node.back(following)


async def test_node_that_offers_nothing_is_told_that_it_cannot_return(service: Service) -> None:
    client = service.client(A)
    with trio.fail_after(DEADLINE_SECONDS):
        await client.join(service.token(A))
        assert client.return_until is None
        await client.renew_node()
    assert client.return_until is None


async def test_revoked_and_removed_nodes_do_not_come_back(service: Service, node: Returning) -> None:
    await node.join()
    service.store.revoke(RevocationKind.NODE, NODE, "stolen", service.clock())
    assert await node.refused(node.token) == "node_revoked"
    service.store.unrevoke(NODE)
    service.store.remove_node(A)
    with trio.fail_after(DEADLINE_SECONDS):
        while (code := await node.refused(node.token)) == "node_revoked":  # noqa: ASYNC110
            await trio.sleep(0.05)
    assert code == "return_token_unknown"


async def test_node_that_was_away_for_too_long_needs_an_operator(service: Service, node: Returning) -> None:
    await node.join()
    service.clock.off = timedelta(hours=95)
    assert await node.refused(drawn()) == "return_token_unknown"
    service.clock.off = timedelta(hours=97)
    assert await node.refused(node.token) == "return_token_expired"


async def test_authority_that_cannot_note_it_uses_no_return_token_up(
    service: Service, node: Returning
) -> None:
    await node.join()
    service.audit_path.unlink()
    service.audit_path.mkdir()
    with pytest.raises(AuthorityError, match="cannot write its audit file"):
        await node.back(node.token)
    service.audit_path.rmdir()
    await node.back(node.token)


async def test_full_disk_of_the_authority_holds_up_no_renewal(service: Service, node: Returning) -> None:
    client, following = await node.join(), drawn()

    write = service.store.offer_return

    def offer(*arguments: object) -> bool:
        with full_disk():
            return write(*arguments)  # type: ignore[arg-type]

    service.store.offer_return = offer  # type: ignore[method-assign,assignment]
    with trio.fail_after(DEADLINE_SECONDS):
        await client.renew_node(following.hash())
    assert client.return_until is None
    await node.back(node.token)


async def test_return_tokens_can_be_switched_off(tmp_path: Path, nursery: trio.Nursery) -> None:
    service = Service(tmp_path, options={"desk_limits": DeskLimits(return_period=timedelta(0))})
    await service.start(nursery)
    node = Returning(service)
    client = service.client(A)
    with trio.fail_after(DEADLINE_SECONDS):
        await client.join(service.token(A), node.token.hash())
        assert client.return_until is None
        await client.renew_node(node.token.hash())
    assert client.return_until is None
    assert await node.refused(node.token) == "return_token_expired"
    assert service.store.return_token(node.token.hash()) is None
    await service.stop()
    service.close()
