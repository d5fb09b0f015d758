"""A node of a cluster joins with the token of its agent's pod, about which the API is asked; nobody else does."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import hypercorn.trio
import pytest
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from interceptor.authority.node_documents import Join
from interceptor.authority.tokens import PodToken
from interceptor.authority_client import AuthorityRefusal
from interceptor.authority_service.pod_tokens import PodTokens
from interceptor.cluster.cluster import Kind
from interceptor.cluster.head import ObjectKey
from interceptor.errors import AuthorityError, AuthorityUnavailable
from interceptor.identity.certificates import fingerprint
from interceptor.identity.node_id import NodeId
from interceptor.identity.revocation import RevocationKind
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.kubernetes.access import ApiAccess
from interceptor.kubernetes.client import ApiClient
from interceptor.kubernetes.cluster_watch import ClusterWatch
from interceptor.kubernetes.resource import NAMESPACES, PODS
from interceptor.pod_admission.token_review import AUDIENCE, PATH
from tests.authority_service.running import DOMAIN, Service, fresh, pem
from tests.authority_service.running import refusal as sent_refusal
from tests.cluster.api_objects import MESH, namespace, pod
from tests.kubernetes.api_server import ApiServer, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.requests import Request

    from interceptor.authority_client import AuthorityClient

AGENT = ObjectKey("mesh", "agent")
WEB = SpiffeId(DOMAIN, "shop", "web")


class Reviewer:
    """The part of an API server that reviews tokens: `bound` says which pod each token is bound to."""

    def __init__(self) -> None:
        self.bound: dict[str, dict[str, Any]] = {}
        self.status = 201
        self.asked: list[Any] = []
        self.url = ""

    def bind(self, token: str, path: str, *, account: str = "agent", node: str = "node-1") -> None:
        space, _, name = path.partition("/")
        extra = {
            "authentication.kubernetes.io/pod-name": [name],
            "authentication.kubernetes.io/pod-uid": [f"uid-{name}"],
            "authentication.kubernetes.io/node-name": [node],
        }
        user = {"username": f"system:serviceaccount:{space}:{account}", "extra": extra}
        self.bound[token] = {"authenticated": True, "audiences": [AUDIENCE], "user": user}

    async def serve(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        config = Config()
        config.bind, config.graceful_timeout, config.errorlog = ["127.0.0.1:0"], 0.1, None
        app = Starlette(routes=[Route(PATH, self._answer, methods=["POST"])])
        async with trio.open_nursery() as nursery:
            binds = await nursery.start(partial(hypercorn.trio.serve, app, config))  # type: ignore[arg-type]
            self.url = binds[0]
            task_status.started()

    async def _answer(self, request: Request) -> Response:
        assert request.headers["content-type"] == "application/json"
        review = await request.json()
        self.asked.append(review)
        status = self.bound.get(review["spec"]["token"], {"authenticated": False, "error": "unknown"})
        return JSONResponse({"kind": "TokenReview", "status": status}, status_code=self.status)


@pytest.fixture
async def reviewer(nursery: trio.Nursery) -> AsyncIterator[Reviewer]:
    reviewer = Reviewer()
    reviewer.bind("one.a-b_c", "mesh/agent-1")
    await nursery.start(reviewer.serve)
    yield reviewer
    nursery.cancel_scope.cancel()


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    """node-1 has an agent, and a pod of shop/web."""
    api = ApiServer(bookmark_seconds=0.1)
    api.put(Kind.NAMESPACE, namespace("shop", labels=MESH))
    api.put(Kind.POD, pod("shop/web-1", "10.0.0.1", account="web"))
    api.put(Kind.POD, pod("mesh/agent-1", "192.0.2.1", account="agent", host_network=True))
    async with running(api):
        yield api


@asynccontextmanager
async def in_cluster(api: ApiServer, reviewer: Reviewer, directory: Path) -> AsyncIterator[Service]:
    async with (
        ApiClient(ApiAccess(api.url, None, None)) as client,
        ApiClient(ApiAccess(reviewer.url, None, None)) as asked,
        trio.open_nursery() as nursery,
    ):
        watch = ClusterWatch(client, (NAMESPACES, PODS))
        service = Service(directory, options={"pods": watch, "proof": PodTokens(asked, watch, AGENT)})
        await service.start(nursery)
        try:
            yield service
        finally:
            await service.stop()
            service.close()
            nursery.cancel_scope.cancel()


@pytest.fixture
async def cluster(api: ApiServer, reviewer: Reviewer, tmp_path: Path) -> AsyncIterator[Service]:
    async with in_cluster(api, reviewer, tmp_path) as service:
        yield service


def shown(service: Service, secret: str = "one.a-b_c") -> str:
    """What a node shows: the root that it expects, and its agent's token."""
    return f"ip1.{fingerprint(service.roots[0])}.{secret}"


async def join(service: Service, node: str = "node-1", secret: str = "one.a-b_c") -> AuthorityClient:
    client = service.client(node)
    with trio.fail_after(15):
        await client.join(shown(service, secret))
    return client


async def refusal(service: Service, node: str = "node-1", secret: str = "one.a-b_c") -> tuple[str, str]:
    with pytest.raises(AuthorityRefusal) as caught:
        await join(service, node, secret)
    last = service.audit("refused")[-1]
    assert last["code"] == caught.value.code
    assert secret not in str(caught.value) + str(last)
    return caught.value.code, str(caught.value)


async def test_node_joins_by_its_agents_token_again_and_again_and_gets_what_its_pods_are(
    cluster: Service, reviewer: Reviewer
) -> None:
    for _ in range(2):
        client = await join(cluster)
        request = create_signing_request(WEB, create_private_key())
        with trio.fail_after(15):
            await client.sign(request, WEB, timedelta(hours=1))
    assert reviewer.asked[0]["spec"] == {"token": "one.a-b_c", "audiences": ["interceptor-ca"]}
    assert [str(node.name) for node in cluster.store.nodes()] == ["node-1"]


async def test_node_that_shows_the_token_of_another_nodes_agent_is_refused(cluster: Service) -> None:
    assert await refusal(cluster, "node-2") == (
        "not_a_node_agent",
        "not_a_node_agent: the token is of a pod on node-1, not on node-2",
    )


async def test_token_that_the_api_does_not_accept_is_refused(cluster: Service) -> None:
    code, message = await refusal(cluster, secret="stolen.and.expired")
    assert code == "pod_token_refused"
    assert "the API does not accept the token: 'unknown'" in message


async def test_token_of_an_applications_pod_is_refused(cluster: Service, reviewer: Reviewer) -> None:
    reviewer.bind("app", "shop/web-1", account="web")
    code, message = await refusal(cluster, secret="app")
    assert code == "not_a_node_agent"
    assert "service account shop/web, agents have mesh/agent" in message


async def test_agent_that_the_authority_sees_a_moment_later_is_waited_for(
    cluster: Service, api: ApiServer, reviewer: Reviewer
) -> None:
    reviewer.bind("two", "mesh/agent-2", node="node-2")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(join, cluster, "node-2", "two")
        while len(reviewer.asked) < 1:  # noqa: ASYNC110 -- the server of the test tells nobody
            await trio.sleep(0.01)
        api.put(Kind.POD, pod("mesh/agent-2", account="agent", node="node-2", host_network=True))


async def test_node_that_is_revoked_does_not_come_back_by_a_token(cluster: Service) -> None:
    await join(cluster)
    cluster.store.revoke(RevocationKind.NODE, f"spiffe://{DOMAIN}/node/node-1", "stolen", cluster.clock())
    assert (await refusal(cluster))[0] == "node_revoked"


@pytest.mark.parametrize("status", [403, 500])
async def test_api_that_cannot_be_asked_is_no_refusal(
    cluster: Service, reviewer: Reviewer, status: int
) -> None:
    reviewer.status = status
    with pytest.raises(AuthorityUnavailable) as caught:
        await join(cluster)
    assert "cannot ask the Kubernetes API about the token" in str(caught.value)
    assert cluster.store.nodes() == ()


async def test_authority_outside_of_a_cluster_takes_no_tokens_of_pods(service: Service) -> None:
    with pytest.raises(AuthorityRefusal) as caught:
        await service.client("node-1").join(shown(service))
    assert "nodes do not join this authority by tokens of pods" in str(caught.value)


async def test_text_that_is_no_token_of_a_pod_is_refused_before_anybody_is_asked(
    cluster: Service, reviewer: Reviewer
) -> None:
    with pytest.raises(AuthorityError, match="this is not the token of a pod"):
        await cluster.client("node-1").join(shown(cluster, "a b"))
    with pytest.raises(AuthorityError, match="is not the authority that made the token"):
        await cluster.client("node-1").join(f"ip1.{'0' * 64}.one")
    assert reviewer.asked == []


async def test_malformed_token_of_a_pod_on_the_wire_is_refused(cluster: Service, reviewer: Reviewer) -> None:
    request = create_signing_request(NodeId(DOMAIN, "node-1"), create_private_key())
    body = Join("ip1.nonsense", "node-1", pem(request), **fresh(cluster)).to_json()
    code, message = await sent_refusal(cluster, None, "POST", "/v1/join", body)
    assert (code, message.split(",")[0]) == ("pod_token_refused", "this is not the token of a pod")
    assert reviewer.asked == []


def test_token_of_a_pod_is_in_no_repr() -> None:
    token = PodToken.parse(f"ip1.{'ab' * 32}.secret.part")
    assert token.root_fingerprint == "ab" * 32
    assert token.secret == "secret.part"
    assert "secret.part" not in repr(token)
