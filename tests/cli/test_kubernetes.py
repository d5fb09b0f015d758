"""The commands about a cluster, against an API server: what is shown, what programs get, and what goes wrong."""

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
import yaml
from click.testing import CliRunner, Result

from interceptor.cli.main import group
from interceptor.cluster.cluster import Kind
from interceptor.errors import ClusterError, InterceptorError, UsageError
from tests.cluster.api_objects import MESH, namespace, pod, policy, service
from tests.kubernetes.api_server import ApiServer, running
from tests.kubernetes.conftest import fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE_SECONDS = 15.0


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    for name in ("KUBERNETES_SERVICE_HOST", "NODE_NAME"):
        monkeypatch.delenv(name, raising=False)
    made = ApiServer(bookmark_seconds=0.1)
    fill(made)
    async with running(made):
        yield made


async def run(api: ApiServer, *arguments: str) -> Result:
    """The command in a thread of its own: it has its own loop."""
    invoke = partial(CliRunner().invoke, group, ["kubernetes", *arguments, "--server", api.url])
    return await trio.to_thread.run_sync(invoke)


async def output_of(api: ApiServer, *arguments: str) -> str:
    result = await run(api, *arguments)
    assert result.exit_code == 0, result.exception
    return result.stdout


async def error_of(api: ApiServer, *arguments: str) -> InterceptorError:
    """The one line that a person would get."""
    result = await run(api, *arguments)
    assert isinstance(result.exception, InterceptorError), result.output
    assert result.stdout == ""
    assert "\n" not in str(result.exception)
    return result.exception


async def test_inventory_lists_pods_with_identities_and_reasons(api: ApiServer) -> None:
    api.put(Kind.POD, pod("shop/agent", "192.0.2.1", host_network=True))
    lines = (await output_of(api, "inventory")).splitlines()
    assert lines[0].split() == ["POD", "STATE", "IDENTITY", "ADDRESSES", "NODE"]
    rows = [line.split() for line in lines[1:5]]
    assert rows == [
        ["bank/ledger", "outside", "-", "10.0.0.3", "node-1"],
        ["shop/agent", "outside", "-", "192.0.2.1", "node-1"],
        ["shop/web-1", "enrolled", "cluster.local/ns/shop/sa/web", "10.0.0.1", "node-1"],
        ["shop/web-2", "enrolled", "cluster.local/ns/shop/sa/web", "10.0.0.2", "node-2"],
    ]
    assert lines[5:] == [
        "bank/ledger: its namespace has not the label interceptor.io/mesh=enabled",
        "shop/agent: it uses its node's network, whose processes cannot be told apart by their namespace",
    ]


async def test_inventory_of_a_node_has_stable_keys(api: ApiServer) -> None:
    text = await output_of(api, "inventory", "--node", "node-2", "-o", "json")
    assert json.loads(text) == [
        {
            "namespace": "shop",
            "name": "web-2",
            "uid": "uid-web-2",
            "state": "enrolled",
            "reason": "labelled",
            "explanation": "the namespace's label puts it into the mesh",
            "identity": "spiffe://cluster.local/ns/shop/sa/web",
            "addresses": ["10.0.0.2"],
            "node": "node-2",
        }
    ]
    assert yaml.safe_load(await output_of(api, "inventory", "--node", "node-2", "-o", "yaml")) == json.loads(
        text
    )
    assert await output_of(api, "inventory", "--node", "nobody") == "there is no pod that has not ended\n"


async def test_inventory_tells_which_objects_cannot_be_read(api: ApiServer) -> None:
    api.put(Kind.POD, pod("shop/odd", "10.0.0.9", labels={"app": "x" * 10_000}))
    assert "cannot be read: pod shop/odd: label 'app' has the value" in await output_of(api, "inventory")


async def _line(process: trio.Process, rest: bytearray) -> str:
    assert process.stdout is not None
    while b"\n" not in rest:
        data = await process.stdout.receive_some()
        assert data, "the command ended"
        rest += data
    line, _, after = bytes(rest).partition(b"\n")
    rest[:] = after
    return line.decode()


async def test_inventory_that_watches_prints_each_change_until_it_is_interrupted(api: ApiServer) -> None:
    command = [sys.executable, "-m", "interceptor", "kubernetes", "inventory", "--watch", "--server", api.url]
    async with trio.open_nursery() as nursery:
        with trio.fail_after(DEADLINE_SECONDS):
            start = partial(
                trio.run_process, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False
            )
            process: trio.Process = await nursery.start(start)
            rest = bytearray()
            lines = {await _line(process, rest) for _ in range(3)}
            enrolled = "is enrolled as spiffe://cluster.local/ns/shop/sa/web: the namespace's label puts it into the mesh"
            assert {f"shop/web-1 {enrolled}", f"shop/web-2 {enrolled}"} < lines
            api.put(Kind.NAMESPACE, namespace("bank", labels=MESH))
            assert (await _line(process, rest)).startswith(
                "bank/ledger is enrolled as spiffe://cluster.local/ns/bank/"
            )
            api.put(Kind.POD, pod("shop/web-1", "10.0.0.1", account="web", deleting=True))
            assert (await _line(process, rest)).startswith("shop/web-1 is draining as ")
            api.delete(Kind.POD, "shop/web-1")
            assert (
                await _line(process, rest)
                == "shop/web-1 is gone as spiffe://cluster.local/ns/shop/sa/web: it is no longer there"
            )
            api.faults.refuse = {Kind.POD: 403}
            api.cut_watches()
            assert process.stderr is not None
            told = b""
            while b"RBAC" not in told:
                told += await process.stderr.receive_some()
            lines = told.decode().splitlines()
            assert len([line for line in lines if "status 403" in line]) == 1, lines
            os.kill(process.pid, signal.SIGINT)
            assert await process.wait() == 130


async def test_resolve_leads_to_the_pods_of_a_service(api: ApiServer) -> None:
    for destination in ("web:80", "web.shop:80", "10.96.0.1:80"):
        data = json.loads(await output_of(api, "resolve", "--from", "shop/web-1", destination, "-o", "json"))
        answers = data["destinations"]
        assert len(answers) == 1
        assert (data["source"]["pod"], data["source"]["state"]) == ("shop/web-1", "enrolled")
        shares = [each.pop("connections") for each in answers[0]["candidates"]]
        assert sum(shares) == 100
        assert min(shares) > 20
        web = {"state": "enrolled", "identity": "spiffe://cluster.local/ns/shop/sa/web"}
        assert answers[0] == {
            "destination": "10.96.0.1:80",
            "outcome": "service",
            "explanation": "service shop/web leads to one of these",
            "service": "shop/web",
            "session_affinity_seconds": None,
            "candidates": [
                {
                    "address": "10.0.0.1:8080",
                    "pod": "shop/web-1",
                    "uid": "uid-web-1",
                    "node": "node-1",
                    **web,
                },
                {
                    "address": "10.0.0.2:8080",
                    "pod": "shop/web-2",
                    "uid": "uid-web-2",
                    "node": "node-2",
                    **web,
                },
            ],
        }


async def test_resolve_with_session_affinity_leads_to_one_pod(api: ApiServer) -> None:
    api.put(Kind.SERVICE, service("shop/web", "10.96.0.1", sessionAffinity="ClientIP"))
    data = json.loads(await output_of(api, "resolve", "--from", "shop/web-1", "web:80", "-o", "json"))
    answers = data["destinations"]
    assert sorted(each["connections"] for each in answers[0]["candidates"]) == [0, 100]


async def test_resolve_says_what_is_not_led_anywhere(api: ApiServer) -> None:
    for destination, expected in (
        ("192.0.2.9:80", "192.0.2.9:80: nothing of it is in the mesh: connections pass as they are"),
        ("web:81", "10.96.0.1:81: service shop/web has not this port: connections are refused"),
        ("[fd00::9]:80", "[fd00::9]:80: nothing of it is in the mesh: connections pass as they are"),
    ):
        assert (await output_of(api, "resolve", "--from", "shop/web-1", destination)).splitlines() == [
            expected
        ]
    table = (await output_of(api, "resolve", "--from", "shop/web-1", "10.0.0.3:80")).splitlines()
    assert table[0] == "10.0.0.3:80: it is a pod's own address"
    assert table[2].split() == ["10.0.0.3:80", "bank/ledger", "outside", "-", "node-1", "100"]


async def test_resolve_from_outside_of_the_mesh_says_so(api: ApiServer) -> None:
    lines = (await output_of(api, "resolve", "--from", "bank/ledger", "web.shop:80")).splitlines()
    assert (
        lines[0]
        == "bank/ledger is outside of the mesh, so its connections pass as they are; if it were in it:"
    )
    assert lines[1] == "10.96.0.1:80: service shop/web leads to one of these"


async def test_resolve_without_the_right_to_nodes_leaves_zone_hints_out(api: ApiServer) -> None:
    api.nodes_are_forbidden = True
    result = await run(api, "resolve", "--from", "shop/web-1", "web:80")
    assert result.exit_code == 0
    assert (
        "zone hints are left out: the API server refused /api/v1/nodes/node-1 with status 403"
        in result.stderr
    )


@pytest.mark.parametrize(
    ("source", "destination", "kind", "message"),
    [
        ("web-1", "web:80", UsageError, "'web-1' is no pod, expected NAMESPACE/POD such as shop/web-1"),
        (
            "shop/none",
            "web:80",
            ClusterError,
            "there is no pod shop/none, see 'interceptor kubernetes inventory'",
        ),
        ("shop/web-1", "none:80", InterceptorError, "'none' is no service seen from namespace shop"),
        ("shop/web-1", "web", UsageError, "'web' is not an address and port"),
        ("shop/web-1", "web:http", UsageError, "is not an address and port"),
        ("shop/web-1", "web:99999", InterceptorError, "port 99999 is not a port number"),
        ("shop/web-1", "10.0.0.300:80", UsageError, "is not an address and port"),
        ("shop/web-1", "web:" + "9" * 5000, UsageError, "is not an address and port"),
    ],
)
async def test_resolve_of_what_is_not_there_is_one_line(
    api: ApiServer, source: str, destination: str, kind: type[InterceptorError], message: str
) -> None:
    error = await error_of(api, "resolve", "--from", source, destination)
    assert isinstance(error, kind)
    assert message in str(error)


async def test_headless_name_without_a_ready_endpoint_has_no_address(api: ApiServer) -> None:
    api.put(Kind.SERVICE, service("shop/db", "None"))
    error = await error_of(api, "resolve", "--from", "shop/web-1", "db:80")
    assert str(error) == "'db' has no address now: no ready endpoint is behind it"


DENY = {"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["bank"]}}]}]}
LAYER_7 = {"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}


async def test_policies_of_the_cluster_are_shown_as_they_would_be_enforced(api: ApiServer) -> None:
    api.put(Kind.PEER_AUTHENTICATION, policy("shop/strict", {"mtls": {"mode": "STRICT"}}))
    api.put(Kind.AUTHORIZATION_POLICY, policy("shop/no-bank", DENY))
    lines = (await output_of(api, "policies")).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["AuthorizationPolicy", "shop/no-bank", "all", "DENY,", "1", "rules", "2"],
        ["PeerAuthentication", "shop/strict", "all", "STRICT", "2"],
    ]
    # Nobody in the mesh is of the namespace bank: a rule that means nobody may be misspelt.
    assert any("no-bank" in line and line.startswith("warning: ") for line in lines[3:])


async def test_policy_of_the_cluster_that_cannot_be_enforced_is_named_with_its_field(api: ApiServer) -> None:
    api.put(Kind.PEER_AUTHENTICATION, policy("shop/strict", {"mtls": {"mode": "STRICT"}}))
    api.put(Kind.AUTHORIZATION_POLICY, policy("shop/methods", LAYER_7))
    api.put(Kind.AUTHORIZATION_POLICY, policy("shop/endless", {"rules": ["x" * 300_000]}))
    result = await run(api, "policies", "-o", "json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert [each["name"] for each in answer["documents"]] == ["strict"]
    endless, methods = answer["refused"]
    assert endless.startswith("AuthorizationPolicy shop/endless has 300")
    assert methods.startswith("AuthorizationPolicy shop/methods:")
    assert "methods" in methods.partition(":")[2]
    assert "refused: AuthorizationPolicy shop/methods:" in (await run(api, "policies")).stdout


async def test_cluster_without_the_resource_definitions_has_no_policies(api: ApiServer) -> None:
    api.faults.refuse = {Kind.PEER_AUTHENTICATION: 404, Kind.AUTHORIZATION_POLICY: 404}
    result = await run(api, "policies")
    assert (result.exit_code, result.stdout) == (0, "there are no policies that can be enforced\n")
    assert "the cluster has no resource definition for /apis/security.istio.io/v1/peerauth" in result.stderr
    api.faults.refuse = {Kind.AUTHORIZATION_POLICY: 403}
    assert "status 403" in str(await error_of(api, "policies"))


async def test_right_that_is_missing_is_named(api: ApiServer) -> None:
    api.faults.refuse[Kind.POD] = 403
    error = await error_of(api, "inventory")
    assert "refused /api/v1/pods with status 403" in str(error)
    assert "RBAC" in str(error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inventory"], "this is no pod, so the API server must be named: run 'kubectl proxy'"),
        (["inventory", "--ca-file", "/ca.crt"], "belong to --server, give it too"),
        (["inventory", "--server", "http://10.0.0.1:1"], "would be asked in plaintext"),
        (["inventory", "--server", "http://127.0.0.1:1", "--watch", "-o", "yaml"], "leave -o yaml out"),
    ],
)
def test_wrong_options_are_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    result = CliRunner().invoke(group, ["kubernetes", *arguments])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_in_a_pod_the_api_is_the_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    result = CliRunner().invoke(group, ["kubernetes", "inventory"])
    assert isinstance(result.exception, ClusterError)
    assert "serviceaccount/ca.crt as the CA's certificates: No such file" in str(result.exception)
