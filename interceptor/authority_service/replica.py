"""One replica of an authority whose state is in a Secret: it follows it, and while it leads it does what is due.

A replica issues by a copy of its own, which has no root key. When the API is away it goes on with what it knows; what
it does not do then is change anything.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio
from cryptography.hazmat.primitives.serialization import Encoding

from interceptor.authority_service.shared_objects import read, write
from interceptor.authority_store import AuthorityStore, discard, without_root_keys
from interceptor.errors import InterceptorError, StateError
from interceptor.identity.certificates import fingerprint
from interceptor.shared_authority.objects import Holder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    from interceptor.authority_service.leadership import Leadership
    from interceptor.authority_service.shared_state import SharedState
    from interceptor.authority_store import Saved
    from interceptor.cluster.head import ObjectKey
    from interceptor.identity.spiffe_id import TrustDomain
    from interceptor.kubernetes.client import ApiClient
    from interceptor.shared_authority.objects import Stored

log = logging.getLogger(__name__)

FOLLOW_SECONDS: Final = 2.0  # a revocation is in force everywhere after so long, and a little more
DUTY_SECONDS: Final = 30.0
START_SECONDS: Final = 1.0
ROOT_FINGERPRINT, ROOT_PEM = "root.sha256", "root.pem"
_COPY: Final = "copy"
_CHECK: Final = "check"


class Replica:
    """Follows `state` and keeps a store by it; `roots` is the ConfigMap by which agents recognise the authority."""

    def __init__(
        self,
        client: ApiClient,
        state: SharedState,
        roots: ObjectKey,
        leadership: Leadership,
        now: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._state = state
        self._roots = roots
        self._leadership = leadership
        self._now = now
        self._seen: Stored | None = None
        self._problems: dict[str, str] = {}

    async def open(self, trust_domain: TrustDomain) -> AuthorityStore:
        """Wait for the authority of a trust domain, made by whoever leads if there is none; whoever gets it closes it.

        StateError when it is another trust domain's.
        """
        while True:
            with self._reporting("the authority cannot be had yet"):
                if (store := await self._try_open(trust_domain)) is not None:
                    break
            await trio.sleep(START_SECONDS)
        if store.trust_domain != trust_domain:
            found = store.trust_domain
            store.close()
            raise StateError(
                f"Secret {self._state.key} holds the authority of {found}, not of {trust_domain}"
            )
        return store

    async def follow(self, store: AuthorityStore) -> None:
        """Let the store be what the Secret says, until cancelled."""
        while True:
            await trio.sleep(FOLLOW_SECONDS)
            with self._reporting("going on with the authority as it was"):
                await self._follow(store)

    async def lead(self, store: AuthorityStore) -> None:
        """Do what is due, as long as this replica leads, until cancelled."""
        while True:
            if self._leadership.is_ours:
                with self._reporting("not everything that is due can be done"):
                    await self._do_what_is_due(store)
            await trio.sleep(DUTY_SECONDS if self._leadership.is_ours else START_SECONDS)

    async def _try_open(self, trust_domain: TrustDomain) -> AuthorityStore | None:
        stored = await self._state.load()
        if stored is None:
            if self._leadership.is_ours:
                await self._create(trust_domain)
            return None
        if self._leadership.is_ours:
            await self._renew()
            stored = await self._state.load() or stored
        copy = self._state.home / _COPY
        discard(copy)  # of a process that was here before
        content = without_root_keys(stored.content)
        store = await trio.to_thread.run_sync(self._restored, copy, content)
        self._seen = stored
        return store

    async def _create(self, trust_domain: TrustDomain) -> None:
        if await read(self._client, Holder.CONFIG_MAP, self._roots) is not None:
            raise StateError(
                f"Secret {self._state.key} is gone, and ConfigMap {self._roots} says that there was an authority: put the "
                "Secret back from a backup, or delete the ConfigMap too, for a new authority that no agent knows yet"
            )
        log.info("making the authority of %s", trust_domain)
        await self._state.create(trust_domain, self._now())

    async def _follow(self, store: AuthorityStore) -> None:
        stored = await self._state.load()
        if stored is None:
            raise StateError(f"Secret {self._state.key} is gone: put it back from a backup")
        if self._seen is not None and self._seen.version == stored.version:
            return
        content = without_root_keys(stored.content)
        await trio.to_thread.run_sync(self._adopt, store, content)
        self._seen = stored
        log.info("the authority changed to version %s of its Secret", stored.version)

    def _adopt(self, store: AuthorityStore, content: Saved) -> None:
        """Try it apart first: what is wrong with it must not reach the copy by which we issue."""
        check = self._state.home / _CHECK
        discard(check)
        self._restored(check, content).close()
        discard(check)
        store.adopt(content)

    def _restored(self, place: Path, content: Saved) -> AuthorityStore:
        return AuthorityStore.restore(place, content, self._now(), passphrase=self._state.passphrase)

    async def _do_what_is_due(self, store: AuthorityStore) -> None:
        if store.issuer(self._now()).needs_intermediate(self._now()):
            await self._renew()
        await self._publish_root(store)

    async def _renew(self) -> None:
        """Renew the intermediate if that is due, which opening an authority with its root key does."""
        await self._state.step(lambda _: None, self._now(), may_write=lambda: self._leadership.is_ours)

    async def _publish_root(self, store: AuthorityStore) -> None:
        root = store.issuer(self._now()).root
        content = {
            ROOT_FINGERPRINT: f"{fingerprint(root)}\n".encode(),
            ROOT_PEM: root.public_bytes(Encoding.PEM),
        }
        before = await read(self._client, Holder.CONFIG_MAP, self._roots)
        if (before is None or before.content != content) and self._leadership.is_ours:
            await write(self._client, Holder.CONFIG_MAP, self._roots, content, before)

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        """Log a failure once, and go on."""
        try:
            yield
        except InterceptorError as error:
            if str(error) != self._problems.get(what):
                log.error("%s: %s", what, error)  # noqa: TRY400 -- a line for a person, no fault of ours
            self._problems[what] = str(error)
        else:
            self._problems.pop(what, None)
