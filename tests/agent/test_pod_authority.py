"""A node of a cluster joins by what is in its pod's files now, and again whenever it is no node any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from interceptor.agent import pod_authority
from interceptor.agent.pod_authority import JoiningClient, PodAuthority, pod_token
from interceptor.authority_client import AuthorityRefusal
from interceptor.config import Config, KubernetesConfig, PathsConfig
from interceptor.errors import AuthorityError, AuthorityUnavailable
from interceptor.identity.certificates import fingerprint
from interceptor.identity.node_id import NodeId
from interceptor.identity.revocation import RevocationKind
from tests.authority_service.running import DOMAIN, Service
from tests.authority_service.test_pod_tokens import api, cluster, reviewer  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.identity.svid import NodeSvid
    from tests.authority_service.test_pod_tokens import Reviewer

TOKEN = "one.a-b_c"


@pytest.fixture
def files(tmp_path: Path) -> KubernetesConfig:
    (tmp_path / "files").mkdir()
    return KubernetesConfig(tmp_path / "files" / "token", tmp_path / "files" / "root.sha256")


def write(files: KubernetesConfig, service: Service, token: str = TOKEN) -> None:
    files.join_token_file.write_text(f"{token}\n")
    files.root_file.write_text(f"{fingerprint(service.roots[0]).upper()}\n")


def config_of(tmp_path: Path, files: KubernetesConfig) -> Config:
    paths = PathsConfig(state_dir=tmp_path)
    return Config(node="node-1", trust_domain=DOMAIN, paths=paths, kubernetes=files)


def client_of(
    service: Service, files: KubernetesConfig, tmp_path: Path, joined: list[NodeSvid]
) -> JoiningClient:
    return JoiningClient(service.endpoint, config_of(tmp_path, files), files, joined.append)


async def renew_for_ever(client: JoiningClient) -> None:
    """Until it is refused: the service looks at its store a moment later."""
    while True:
        await client.renew_node()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_authority, "JOIN_PAUSE_SECONDS", 0.0)


async def test_node_that_was_removed_joins_again_and_asks_once_more(
    cluster: Service,  # noqa: F811
    reviewer: Reviewer,  # noqa: F811
    files: KubernetesConfig,
    tmp_path: Path,
) -> None:
    write(files, cluster)
    joined: list[NodeSvid] = []
    client = client_of(cluster, files, tmp_path, joined)
    await client.join_cluster()
    cluster.store.remove_node("node-1")
    reviewer.bind("two.a-b_c", "mesh/agent-1")
    write(files, cluster, "two.a-b_c")  # the kubelet replaces it
    with trio.fail_after(15):
        while len(joined) == 1:  # the service looks at its store a moment later
            document = await client.trust(None)
    assert document == client.document
    assert joined[-1] is client.svid
    assert len(joined) == 2
    assert reviewer.asked[-1]["spec"]["token"] == "two.a-b_c"
    client.close()


async def test_node_that_was_revoked_does_not_join_again(
    cluster: Service,  # noqa: F811
    files: KubernetesConfig,
    tmp_path: Path,
) -> None:
    write(files, cluster)
    joined: list[NodeSvid] = []
    client = client_of(cluster, files, tmp_path, joined)
    await client.join_cluster()
    cluster.store.revoke(RevocationKind.NODE, str(NodeId(DOMAIN, "node-1")), "stolen", cluster.clock())
    with trio.fail_after(15), pytest.raises(AuthorityRefusal, match="node_revoked"):
        await renew_for_ever(client)
    assert len(joined) == 1
    client.close()


async def test_authority_with_another_root_is_joined_when_the_cluster_publishes_that(
    cluster: Service,  # noqa: F811
    files: KubernetesConfig,
    tmp_path: Path,
    nursery: trio.Nursery,
) -> None:
    write(files, cluster)
    joined: list[NodeSvid] = []
    client = client_of(cluster, files, tmp_path, joined)
    await client.join_cluster()
    await cluster.stop()
    (tmp_path / "anew").mkdir()
    anew = Service(tmp_path / "anew", options=cluster.options)
    anew.endpoint = cluster.endpoint
    await anew.start(nursery)
    with pytest.raises((AuthorityUnavailable, AuthorityError)):
        await client.renew_node()  # whoever answers there, the cluster does not say so
    assert len(joined) == 1
    write(files, anew)
    assert await client.renew_node() is joined[-1]
    assert client.document == anew.store.trust_document()
    client.close()
    await anew.stop()
    anew.close()


async def test_node_waits_until_it_is_let_in_and_says_why(
    cluster: Service,  # noqa: F811
    files: KubernetesConfig,
    tmp_path: Path,
    nursery: trio.Nursery,
) -> None:
    access = PodAuthority(config_of(tmp_path, files), cluster.endpoint, files)
    opened = trio.Event()

    async def open_it() -> None:
        await access.open()
        opened.set()

    nursery.start_soon(open_it)
    while access.waiting_for is None:  # noqa: ASYNC110 - nobody tells
        await trio.sleep(0.01)
    assert (
        access.waiting_for
        == f"cannot read {files.root_file}, which the node joins with: No such file or directory"
    )
    write(files, cluster)
    with trio.fail_after(15):
        await opened.wait()
    assert access.waiting_for is None
    assert access.link.svid is not None
    access.close()


def test_files_that_hold_no_token_are_named_and_not_shown(files: KubernetesConfig) -> None:
    files.root_file.write_text("no fingerprint")
    files.join_token_file.write_text("secret")
    with pytest.raises(AuthorityError) as caught:
        pod_token(files)
    assert str(files.root_file) in str(caught.value)
    assert "secret" not in str(caught.value)
