"""The leading replica tells in their status whether policies can be enforced, and everything else goes on without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from interceptor.cluster.cluster import Kind
from tests.authority_service.replicas import ROOTS, ClusterOfReplicas, cluster_of_replicas, hurry, until
from tests.authority_service.test_replicas import issued
from tests.cluster.api_objects import policy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ACCEPTED = "interceptor.io/Accepted"
pytestmark = pytest.mark.timeout(90)
BAD = {"action": "ALLOW", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}
ISTIOS = {"type": "ZtunnelAccepted", "status": "True", "reason": "Accepted", "message": "attached to ztunnel"}


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ClusterOfReplicas]:
    hurry(monkeypatch)
    for name in ("LOOK_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(f"interceptor.authority_service.policy_status.{name}", 0.1)
    async with cluster_of_replicas(tmp_path) as cluster:
        yield cluster


def told(
    cluster: ClusterOfReplicas, name: str, kind: Kind = Kind.AUTHORIZATION_POLICY
) -> tuple[str, str] | None:
    found = cluster.api.written.condition(kind, name, ACCEPTED)
    return None if found is None else (found["status"], found["reason"])


def with_generation(value: dict[str, Any], generation: int) -> dict[str, Any]:
    return {**value, "metadata": {**value["metadata"], "generation": generation}}


async def test_policies_are_told_of_and_bad_ones_have_an_event(cluster: ClusterOfReplicas) -> None:
    api = cluster.api
    bad = with_generation(policy("shop/bad", BAD), 7)
    bad["status"] = {"conditions": [ISTIOS], "validationMessages": [{"level": "INFO"}]}
    api.put(Kind.AUTHORIZATION_POLICY, bad)
    api.put(Kind.PEER_AUTHENTICATION, policy("shop/good", {"mtls": {"mode": "STRICT"}}))
    await cluster.start("one")
    await cluster.start("two")
    await until(lambda: told(cluster, "shop/bad") == ("False", "Invalid"))
    await until(lambda: told(cluster, "shop/good", Kind.PEER_AUTHENTICATION) == ("True", "Accepted"))
    status = api.objects[Kind.AUTHORIZATION_POLICY]["shop/bad"]["status"]
    istios, ours = status["conditions"]
    assert istios == ISTIOS
    assert status["validationMessages"] == [{"level": "INFO"}]
    assert ours["observedGeneration"] == 7
    assert "methods" in ours["message"]
    assert "refuse everything in its namespace" in ours["message"]
    await until(lambda: api.written.events_of("bad"))
    (event,) = api.written.events_of("bad")
    assert (event["type"], event["reason"]) == ("Warning", "PolicyInvalid")
    assert event["reportingController"] == "interceptor.io/authority"
    assert event["note"] == ours["message"]

    repaired = policy("shop/bad", {"action": "DENY", "rules": [{}]})
    api.put(Kind.AUTHORIZATION_POLICY, {**with_generation(repaired, 8), "status": status})
    await until(lambda: told(cluster, "shop/bad") == ("True", "Accepted"))
    await until(lambda: len(api.written.events_of("bad")) == 2)
    assert api.written.events_of("bad")[1]["reason"] == "PolicyAccepted"
    assert api.written.events_of("good") == []
    # One writer, and each said once.
    patches = [path for path, _ in api.written.writes if path.startswith("PATCH") and "/status" in path]
    assert len(patches) == 3


async def test_another_writer_loses_nothing_whoever_is_faster(
    cluster: ClusterOfReplicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interceptor.cluster_status.changes.FIRST_PAUSE_SECONDS", 0.2)
    api = cluster.api
    api.put(Kind.AUTHORIZATION_POLICY, policy("shop/p", BAD))

    def istio_writes() -> None:
        taken = api.objects[Kind.AUTHORIZATION_POLICY]["shop/p"]
        api.put(Kind.AUTHORIZATION_POLICY, {**taken, "status": {"conditions": [ISTIOS]}})

    api.written.before_patch.append(istio_writes)  # between our look and our write
    await cluster.start("one")
    await until(lambda: told(cluster, "shop/p") == ("False", "Invalid"))
    assert ISTIOS in api.objects[Kind.AUTHORIZATION_POLICY]["shop/p"]["status"]["conditions"]
    istio_writes()  # over ours, as somebody who replaces the list without a look at it
    await until(lambda: told(cluster, "shop/p") == ("False", "Invalid"))
    assert ISTIOS in api.objects[Kind.AUTHORIZATION_POLICY]["shop/p"]["status"]["conditions"]


async def test_certificates_are_issued_without_the_rights_and_definitions_for_policies(
    cluster: ClusterOfReplicas, caplog: pytest.LogCaptureFixture
) -> None:
    api = cluster.api
    api.put(Kind.AUTHORIZATION_POLICY, policy("shop/p", BAD))
    api.faults.refuse = {Kind.PEER_AUTHENTICATION: 404}
    api.forbids = lambda method, path, _: "no" if "/status" in path or "/events" in path else None
    one = await cluster.start("one")
    await until(lambda: ROOTS in cluster.kept.objects)
    await issued(await cluster.client(one))
    await until(lambda: "the policies' status cannot be written, nothing depends on it" in caplog.text)
    assert "give the service account the right to patch it (RBAC)" in caplog.text
