"""Two replicas of an authority whose only store is the Kubernetes API: one state, one leader, and no word lost."""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.authority.reports import NodeReport
from interceptor.authority.rotation import Step
from interceptor.authority_client import AuthorityRefusal
from interceptor.authority_service.cluster_nodes import nodes_for_a_step
from interceptor.authority_service.shared_state import SharedState
from interceptor.authority_store import AuthorityStore
from interceptor.cluster.cluster import Kind
from interceptor.errors import AuthorityError
from interceptor.identity.certificates import fingerprint
from interceptor.identity.revocation import RevocationKind
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient
from tests.authority_service.replicas import (
    DEADLINE_SECONDS,
    LEASE,
    NODES,
    ROOTS,
    SECRET,
    SHARED,
    ClusterOfReplicas,
    cluster_of_replicas,
    eventually,
    hurry,
    until,
)
from tests.authority_service.running import DOMAIN, Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from cryptography import x509

    from interceptor.authority_client import AuthorityClient

WEB = SpiffeId(DOMAIN, "shop", "web")
pytestmark = pytest.mark.timeout(90)  # three deadlines of what several processes would do


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ClusterOfReplicas]:
    hurry(monkeypatch)
    async with cluster_of_replicas(tmp_path) as cluster:
        yield cluster


async def issued(client: AuthorityClient, identity: SpiffeId = WEB) -> tuple[x509.Certificate, ...]:
    """A certificate, as soon as the replica knows the pod and the node."""
    key = create_private_key()
    with trio.fail_after(DEADLINE_SECONDS):
        while True:
            try:
                return await client.sign(create_signing_request(identity, key), identity, timedelta(hours=1))
            except AuthorityError as error:
                if isinstance(error, AuthorityRefusal) and error.code != "node_not_authorised":
                    raise
            await trio.sleep(0.05)


async def step(cluster: ClusterOfReplicas, change: Callable[[AuthorityStore], object]) -> None:
    """As a command of `interceptor ca` does."""
    home = cluster.directory / "command"
    home.mkdir(exist_ok=True)
    async with ApiClient(ApiAccess(cluster.api.url, None, None)) as client:
        await SharedState(client, SHARED.secret, home, None).step(change, Clock()())
    assert list(home.iterdir()) == [], "keys were left behind"


async def roots_of(client: AuthorityClient) -> tuple[x509.Certificate, ...]:
    return (await client.trust(None)).trust_bundles().bundles[DOMAIN].roots


async def has_heard_of_a_revocation(client: AuthorityClient) -> bool:
    return bool((await client.trust(None)).revoked.entries)


async def code_of_refusal(client: AuthorityClient) -> str:
    try:
        await client.sign(create_signing_request(WEB, create_private_key()), WEB, timedelta(hours=1))
    except AuthorityRefusal as refusal:
        return refusal.code
    return ""


async def test_first_replica_makes_the_authority_and_the_second_issues_from_it(
    cluster: ClusterOfReplicas,
) -> None:
    one = await cluster.start("one")
    two = await cluster.start("two")
    await until(lambda: ROOTS in cluster.kept.objects)
    client = await cluster.client(one)
    elsewhere = cluster.moved(client, two)
    first, second = await issued(client), await issued(elsewhere)
    assert first[1] == second[1], "both issue from the same intermediate"
    assert first[0].serial_number != second[0].serial_number
    assert cluster.written(SECRET) == 1
    assert cluster.kept.objects[ROOTS]["data"]["root.sha256"] == f"{cluster.state()['active']}\n"
    keys = [path.name for path in cluster.directory.rglob("*.key")]
    assert keys == ["intermediate.key", "intermediate.key"], "root keys are in the Secret alone"


async def test_replicas_that_start_at_once_make_one_authority(cluster: ClusterOfReplicas) -> None:
    begun = [cluster.begin(f"replica-{number}") for number in range(3)]
    for replica in begun:
        await until(replica.ready.is_set)
    assert cluster.written(SECRET) == 1
    roots = {path.read_bytes() for path in cluster.directory.rglob("root.pem")}
    assert len(roots) == 1


async def test_revocation_by_a_command_is_in_force_at_every_replica(cluster: ClusterOfReplicas) -> None:
    one, two = await cluster.start("one"), await cluster.start("two")
    await until(lambda: ROOTS in cluster.kept.objects)
    client = await cluster.client(one)
    await issued(cluster.moved(client, two))
    await step(cluster, lambda store: store.revoke(RevocationKind.IDENTITY, str(WEB), "", Clock()()))
    for replica in (one, two):
        there = cluster.moved(client, replica)
        await eventually(partial(has_heard_of_a_revocation, there))
        with pytest.raises(AuthorityRefusal, match="identity_revoked"):
            await issued(there)


async def test_root_is_rotated_by_commands_when_nodes_of_all_replicas_have_confirmed(
    cluster: ClusterOfReplicas,
) -> None:
    one, two = await cluster.start("one"), await cluster.start("two")
    await until(lambda: ROOTS in cluster.kept.objects)
    old = cluster.state()["active"]
    clients = {one.name: await cluster.client(one, "node-1"), two.name: await cluster.client(two, "node-2")}

    async def confirm() -> None:
        for client in clients.values():
            svid = await client.renew_node()
            trust = await client.trust(None)
            roots = trust.trust_bundles().bundles[DOMAIN].roots
            issuers = tuple(fingerprint(root) for root in roots if root.subject == svid.chain[1].issuer)
            report = NodeReport(trust.bundle_hash, trust.document_hash, issuers, (), Clock()())
            await client.report(report)

    async def is_possible(wanted: Step) -> bool:
        """As somebody does who repeats the command until nobody lags."""
        async with ApiClient(ApiAccess(cluster.api.url, None, None)) as api:
            know = await nodes_for_a_step(api, SHARED.nodes, frozenset({"node-1", "node-2"}), Clock()())

        def change(store: AuthorityStore) -> None:
            know(store)
            store.rotate(wanted, Clock()())

        try:
            await step(cluster, change)
        except AuthorityError:
            await confirm()
            return False
        return True

    for wanted in (Step.PREPARE, Step.DISTRIBUTE, Step.ACTIVATE, Step.RETIRE):
        await eventually(partial(is_possible, wanted))
    new = cluster.state()["active"]
    assert new != old
    await until(lambda: cluster.kept.objects[ROOTS]["data"]["root.sha256"] == f"{new}\n")
    await until(lambda: {path.parent.name for path in cluster.directory.rglob("root.pem")} == {new[:16]})
    assert NODES in cluster.kept.objects
    assert await issued(cluster.moved(clients["one"], two))

    async def is_retired() -> bool:
        return [fingerprint(root) for root in await roots_of(clients["one"])] == [new]

    await eventually(is_retired)


async def test_what_a_node_tells_one_replica_the_others_know_too(cluster: ClusterOfReplicas) -> None:
    one = await cluster.start("one")
    await cluster.start("two")
    await until(lambda: ROOTS in cluster.kept.objects)
    client = await cluster.client(one, "node-1")
    trust = await client.trust(None)
    await client.report(NodeReport(trust.bundle_hash, trust.document_hash, (), (), Clock()()))

    def is_known_at_two() -> bool:
        with closing(AuthorityStore.open(cluster.directory / "two/copy", None)) as store:
            return any(node.name == "node-1" and node.report is not None for node in store.nodes())

    await until(is_known_at_two)


async def test_leader_that_stops_is_followed_at_once_and_one_that_dies_after_its_lease(
    cluster: ClusterOfReplicas,
) -> None:
    def holder() -> str:
        found: str = cluster.kept.objects[LEASE]["spec"]["holderIdentity"]
        return found

    one, two = await cluster.start("one"), await cluster.start("two")
    assert holder() == "one"
    await one.stop()
    assert holder() in ("", "two")
    await until(lambda: holder() == "two", 1.5)  # sooner than the lease would have ended
    three = await cluster.start("three")
    cluster.api.forbids = lambda method, path, _: "gone" if path == LEASE and holder() == "two" else None
    await two.stop()  # it cannot give the lease back
    assert holder() == "two"
    cluster.api.forbids = lambda *_: None
    await until(lambda: holder() == "three")
    assert cluster.kept.objects[LEASE]["spec"]["leaseTransitions"] == 2
    await three.stop()


async def test_intermediate_is_renewed_by_the_leader_and_followed_by_the_others(
    cluster: ClusterOfReplicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await cluster.start("one"), await cluster.start("two")
    before = cluster.kept.objects[SECRET]["data"]
    for replica in (two, one):  # also a follower whose clock is first does not write
        replica.clock.off = timedelta(days=200)
    await until(lambda: cluster.kept.objects[SECRET]["data"] != before)
    await until(
        lambda: (
            {path.read_bytes() for path in cluster.directory.rglob("copy/issuers/*/intermediate.pem")}
            == {cluster.content(SECRET, f"{cluster.state()['active'][:16]}.intermediate.pem")}
        )
    )
    assert cluster.written(SECRET) == 2


async def test_api_that_is_away_stops_neither_issuing_nor_the_replicas(
    cluster: ClusterOfReplicas, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one = await cluster.start("one")
    await until(lambda: ROOTS in cluster.kept.objects)
    client = await cluster.client(one)
    await issued(client)
    cluster.api.is_away = True
    cluster.api.cut_watches()
    await until(lambda: "going on with the authority as it was" in caplog.text)
    await until(lambda: "does not lead any more" in caplog.text)
    for _ in range(3):
        await issued(client)
    cluster.api.is_away = False
    await step(cluster, lambda store: store.revoke(RevocationKind.IDENTITY, str(WEB), "", Clock()()))
    await eventually(partial(has_heard_of_a_revocation, client))


def _is_told(caplog: pytest.LogCaptureFixture, message: str) -> bool:
    return message in caplog.text


async def test_secret_that_is_broken_or_gone_is_told_and_not_followed(
    cluster: ClusterOfReplicas, caplog: pytest.LogCaptureFixture
) -> None:
    one = await cluster.start("one")
    await until(lambda: ROOTS in cluster.kept.objects)
    client = await cluster.client(one)
    good = cluster.kept.objects[SECRET]
    key = next(name for name in good["data"] if name.endswith(".intermediate.key"))
    for name, told in (
        ("state.json", "the saved authority cannot be used"),
        (key, "intermediate.key is corrupt, it is not a PEM private key"),
    ):
        broken = {**good["data"], name: "e30="}
        cluster.kept.objects[SECRET] = {**good, "data": broken, "metadata": dict(good["metadata"])}
        cluster.kept.touch(SECRET)
        await until(partial(_is_told, caplog, told))
        await issued(client)
        assert b"{}" not in [path.read_bytes() for path in cluster.directory.rglob("copy/issuers/*/*")]
    del cluster.kept.objects[SECRET]
    await until(lambda: "is gone: put it back from a backup" in caplog.text)
    await issued(client)
    two = cluster.begin("two")
    await one.stop()
    await until(lambda: "says that there was an authority" in caplog.text)
    assert not two.ready.is_set()
    assert SECRET not in cluster.kept.objects, "no new authority that no node believes"
    cluster.kept.objects[SECRET] = good
    await until(two.ready.is_set)


async def test_node_without_an_agent_is_none_at_any_replica(cluster: ClusterOfReplicas) -> None:
    one, two = await cluster.start("one"), await cluster.start("two")
    await until(lambda: ROOTS in cluster.kept.objects)
    client = await cluster.client(one, "node-1")
    elsewhere = cluster.moved(client, two)
    await issued(elsewhere)
    cluster.api.delete(Kind.POD, "interceptor/agent-1")

    async def is_refused() -> bool:
        return await code_of_refusal(elsewhere) == "node_not_authorised"

    await eventually(is_refused)


async def test_node_asks_for_an_account_without_a_pod_there_and_is_refused_and_audited(
    cluster: ClusterOfReplicas,
) -> None:
    one = await cluster.start("one")
    await until(lambda: ROOTS in cluster.kept.objects)
    client = await cluster.client(one, "node-2")
    with pytest.raises(AuthorityRefusal, match="pod_not_on_node"):
        await issued(client)
    audit = (one.home / "audit.jsonl").read_text()
    assert '"code":"pod_not_on_node"' in audit
