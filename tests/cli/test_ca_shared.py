"""The authority of a cluster by its commands: a replica is served, asked and changed; and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from click.testing import CliRunner, Result

from interceptor.authority_service.shared_state import SharedState
from interceptor.cli.main import group
from interceptor.errors import AuthorityError, StateError, UsageError
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient
from tests.authority_service.replicas import LEASE, SECRET, SHARED, cluster_of_replicas, until
from tests.authority_service.running import DOMAIN, Clock, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.authority_service.replicas import ClusterOfReplicas

SAID = ("--secret", "interceptor/interceptor-authority", "--agents", "interceptor/interceptor-agent")
WEB = "spiffe://cluster.local/ns/shop/sa/web"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ClusterOfReplicas]:
    async with cluster_of_replicas(tmp_path) as cluster:
        yield cluster


async def ca(cluster: ClusterOfReplicas, *arguments: str) -> Result:
    """A command about the authority in the Secret, as elsewhere than in a pod."""
    place = ("--kubernetes", cluster.api.url, "--dir", str(cluster.directory / "commands"))
    invoke = partial(CliRunner().invoke, group, ["ca", *arguments, *SAID, *place])
    return await trio.to_thread.run_sync(invoke)


async def done(cluster: ClusterOfReplicas, *arguments: str) -> str:
    result = await ca(cluster, *arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


async def create(cluster: ClusterOfReplicas) -> None:
    async with ApiClient(ApiAccess(cluster.api.url, None, None)) as client:
        await SharedState(client, SHARED.secret, cluster.directory, None).create(DOMAIN, Clock()())


def audited(cluster: ClusterOfReplicas, command: str) -> list[str]:
    lines = (cluster.directory / "commands/audit.jsonl").read_text().splitlines()
    return [line["event"] for line in map(json.loads, lines) if line["request"] == f"ca {command}"]


async def test_replica_is_served_asked_and_told_by_commands(cluster: ClusterOfReplicas) -> None:
    command = [sys.executable, "-m", "interceptor", "ca", "serve", *SAID]
    command += ["--listen", f"127.0.0.1:{free_port()}", "--dir", str(cluster.directory / "served")]
    process = await trio.to_thread.run_sync(
        partial(
            subprocess.Popen,
            [*command, "--kubernetes", cluster.api.url, "--trust-domain", "cluster.local"],
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    try:
        assert process.stderr is not None
        with trio.fail_after(15):
            while "serving the authority of cluster.local" not in (
                await trio.to_thread.run_sync(process.stderr.readline)
            ):
                assert process.poll() is None
        assert "key copied" not in await done(cluster, "revocations")
        assert await done(cluster, "revoke", WEB, "--why", "key copied") == f"identity {WEB} is revoked\n"
        assert "key copied" in await done(cluster, "revocations")
        # Nodes that have an agent count, also before they have told anything.
        status = json.loads(await done(cluster, "status", "-o", "json"))
        assert (status["nodes"], status["directory"]) == (2, "Secret interceptor/interceptor-authority")
        await done(cluster, "rotate", "prepare")
        await done(cluster, "rotate", "distribute")
        refused = await ca(cluster, "rotate", "activate")
        assert isinstance(refused.exception, AuthorityError)
        assert "node-1 (has not reported yet), node-2 (has not reported yet)" in str(refused.exception)
        assert cluster.state()["phase"] == "distributed"
        left = await trio.to_thread.run_sync(
            lambda: [each.name for each in (cluster.directory / "commands").iterdir()]
        )
        assert left == ["audit.jsonl"], "keys were left behind"
        assert audited(cluster, "revoke") == ["command_begun", "command_done"]
        assert audited(cluster, "rotate activate") == ["command_begun", "command_failed"]
    finally:
        process.send_signal(signal.SIGTERM)
        await trio.to_thread.run_sync(process.wait)
        process.stderr.close()
    assert process.returncode == 0
    await until(lambda: cluster.kept.objects[LEASE]["spec"]["holderIdentity"] == "")


async def test_what_a_command_says_is_said_once_when_it_is_in_force(cluster: ClusterOfReplicas) -> None:
    await create(cluster)
    cluster.kept.before_write.append(cluster.kept.touch)
    assert (
        await done(cluster, "alias", "old.example")
        == "identities of old.example count as those of cluster.local\n"
    )
    cluster.kept.before_write.extend([cluster.kept.touch] * 5)
    result = await ca(cluster, "alias", "older.example")
    assert result.exit_code != 0
    assert result.stdout == ""
    assert cluster.state()["aliases"] == ["old.example"]
    assert audited(cluster, "in a Secret") == ["command_not_in_force"]


async def test_authority_that_is_not_there_is_told(cluster: ClusterOfReplicas) -> None:
    result = await ca(cluster, "status")
    assert isinstance(result.exception, StateError)
    assert "there is no authority in Secret interceptor/interceptor-authority" in str(result.exception)
    assert SECRET not in cluster.kept.objects


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("status", "--secret", "x"),
            "--secret needs to know whose pods the nodes' agents are: give --agents too",
        ),
        (("status", "--secret", "x", "--agents", "a/b"), "this is no pod: give the URL"),
        (
            ("status", "--secret", "x", "--agents", "a/b", "--kubernetes", "http://127.0.0.1:1"),
            "'x' is not a Secret, expected NAMESPACE/NAME",
        ),
        (
            ("status", "--secret", "a/b", "--agents", "b", "--kubernetes", "http://127.0.0.1:1"),
            "'b' is not a service account, expected NAMESPACE/SERVICEACCOUNT",
        ),
        (("serve", "--secret", "a/b"), "give --agents too"),
        (("serve", "--trust-domain", "a.example"), "--trust-domain is for --secret"),
        (
            ("serve", "--secret", "a", "--agents", "a/b", "--kubernetes", "http://127.0.0.1:1"),
            "'a' is not a Secret, expected NAMESPACE/NAME",
        ),
    ],
)
def test_wrong_usage_is_told_in_one_line(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("KUBERNETES_", "INTERCEPTOR_CA_"))]:
        monkeypatch.delenv(name)
    result = CliRunner().invoke(group, ["ca", *arguments])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
