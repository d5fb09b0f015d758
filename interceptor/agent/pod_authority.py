"""The authority of a cluster: the node joins with its pod's own token, and again whenever it is no node any more."""

from __future__ import annotations

import logging
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from interceptor.agent.clock import wall_clock
from interceptor.agent.joined_authority import JoinedAuthority
from interceptor.authority.refusal import Code
from interceptor.authority.tokens import MAX_POD_TOKEN, PodToken
from interceptor.authority_client import AuthorityClient
from interceptor.errors import AuthorityError, AuthorityRefusal, InterceptorError
from interceptor.identity.certificates import fingerprint
from interceptor.identity.rotation import backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from cryptography import x509

    from interceptor.authority.address import AuthorityAddress
    from interceptor.authority.documents import NodeReport, RegistryDocument
    from interceptor.config import Config, KubernetesConfig
    from interceptor.credentials import Credentials
    from interceptor.identity.spiffe_id import SpiffeId
    from interceptor.identity.svid import NodeSvid
    from interceptor.identity.trust_document import TrustDocument

log = logging.getLogger(__name__)
_T = TypeVar("_T")

# What says that the authority does not know us as a node (any more). Not that the node was revoked: somebody meant it.
LOST: Final = frozenset({Code.NODE_NOT_AUTHORISED, Code.NODE_IDENTITY_EXPIRED})
LONGEST_PAUSE: Final = timedelta(seconds=10)
JOIN_PAUSE_SECONDS: Final = (
    5.0  # between two joins: who is refused all the same must not join at each question
)
_randomness = random.SystemRandom()


class JoiningClient(AuthorityClient):
    """An AuthorityClient that joins again, and asks once more, when the answer is that it is no node."""

    def __init__(
        self,
        address: AuthorityAddress,
        config: Config,
        cluster: KubernetesConfig,
        joined: Callable[[NodeSvid], None],
    ) -> None:
        super().__init__(address, config.trust_domain, config.node, wall_clock)
        self._cluster = cluster
        self._joined = joined
        self._joining = trio.Lock()
        self._joined_at = -JOIN_PAUSE_SECONDS

    async def join_cluster(self) -> NodeSvid:
        """Become a node by the token that the kubelet has put into the pod, read anew; AuthorityError."""
        svid = await self.join(pod_token(self._cluster))
        self._joined_at = trio.current_time()
        self._joined(svid)
        return svid

    async def renew_node(self, offered: str = "") -> NodeSvid:
        before = self.svid
        try:
            return await super().renew_node(offered)
        except AuthorityError as error:
            await self._join_again(error, before)
        assert self.svid is not None, "it has joined"
        return self.svid

    async def sign(
        self, request: x509.CertificateSigningRequest, spiffe_id: SpiffeId, lifetime: timedelta
    ) -> tuple[x509.Certificate, ...]:
        ask = super().sign
        return await self._ask(lambda: ask(request, spiffe_id, lifetime))

    async def trust(self, known: str | None) -> TrustDocument:
        ask = super().trust
        return await self._ask(lambda: ask(known))

    async def registry(self, known: int | None) -> RegistryDocument:
        ask = super().registry
        return await self._ask(lambda: ask(known))

    async def report(self, report: NodeReport) -> None:
        ask = super().report
        await self._ask(lambda: ask(report))

    async def _ask(self, question: Callable[[], Awaitable[_T]]) -> _T:
        before = self.svid
        try:
            return await question()
        except AuthorityError as error:
            await self._join_again(error, before)
        return await question()

    async def _join_again(self, error: AuthorityError, before: NodeSvid | None) -> None:
        """Join, if that may help; else raise the error.  Many may ask at once, and one of them joins."""
        if not self._is_lost(error):
            raise error
        async with self._joining:
            if self.svid is not before:
                return  # somebody else did
            if trio.current_time() < self._joined_at + JOIN_PAUSE_SECONDS:
                raise error
            log.warning("joining the authority again: %s", error)
            await self.join_cluster()

    def _is_lost(self, error: AuthorityError) -> bool:
        """Whether it is about us: we are not known, or the cluster's authority has a root that we do not believe."""
        if isinstance(error, AuthorityRefusal):
            return error.code in LOST
        try:
            root = PodToken.parse(pod_token(self._cluster)).root_fingerprint
        except InterceptorError:
            return False
        bundles = self.document.bundles if self.document is not None else ()
        return root not in {fingerprint(each) for bundle in bundles for each in bundle.roots}


class PodAuthority(JoinedAuthority):
    """An AuthorityAccess of a node of a cluster; it waits until it is let in."""

    def __init__(self, config: Config, address: AuthorityAddress, cluster: KubernetesConfig) -> None:
        self._client = JoiningClient(address, config, cluster, self._use)
        super().__init__(config, address, None, self._client)
        self._credentials: Credentials | None = None

    async def open(self) -> TrustDocument:
        """Go on as the node that we were, or become one."""
        kept, _ = self._load()
        if kept is not None:
            self.link.resume(*kept)
        else:
            await self._join_in_the_end()
        document = self.link.document
        assert document is not None, "who has joined knows whom to believe"
        self.keep(document)
        return document

    async def run(self, credentials: Credentials, renewed: Callable[[NodeSvid], None]) -> None:
        self._credentials = credentials
        await super().run(credentials, renewed)

    async def _join_in_the_end(self) -> None:
        attempt = 0
        while True:
            try:
                await self._client.join_cluster()
            except InterceptorError as error:
                if str(error) != self.waiting_for:
                    log.warning("this node could not join its authority yet: %s", error)
                self.waiting_for = str(error)
                pause = min(backoff(attempt, _randomness.random()), LONGEST_PAUSE)
                attempt += 1
                await trio.sleep(pause.total_seconds())
            else:
                self.waiting_for = None
                return

    def _use(self, svid: NodeSvid) -> None:
        self._keep_svid(svid)
        if self._credentials is not None and self._credentials.node is not None:
            self._credentials.node.bring_forward(timedelta(0))  # what it keeps fresh is another one now


def pod_token(cluster: KubernetesConfig) -> str:
    """What the node joins with, from its two files; AuthorityError."""
    root, token = _read(cluster.root_file), _read(cluster.join_token_file)
    text = f"ip1.{root.lower()}.{token}"
    try:
        PodToken.parse(text)
    except InterceptorError as error:
        raise AuthorityError(f"{cluster.root_file} and {cluster.join_token_file}: {error}") from None
    return text


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_POD_TOKEN + 1).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise AuthorityError(f"cannot read {path}, which the node joins with: {error.strerror}") from None
