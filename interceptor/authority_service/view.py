"""What the authority's store says, read once after each change and then looked at by every request."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from interceptor.authority.outlook import intermediate_outlook
from interceptor.authority.refusal import Code, Refused
from interceptor.errors import InterceptorError, utc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from interceptor.authority.documents import RegistryDocument
    from interceptor.authority.node_record import NodeRecord
    from interceptor.authority.rotation import RotationState
    from interceptor.authority_store import AuthorityStore
    from interceptor.identity.authority import Authority
    from interceptor.identity.trust_bundle import TrustBundles
    from interceptor.identity.trust_document import TrustDocument

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2  # for changes by other processes: the commands of `interceptor ca`
READ_AGAIN_SECONDS = (
    60.0  # also without a change: the issuer's own certificates are renewed by looking at them
)
STALE_SECONDS = 10.0  # a store that cannot be read for longer may have revoked anything


@dataclass(frozen=True, slots=True)
class View:
    """One state of the store; `trust_json` and `registry_json` are the documents as they travel."""

    version: int
    issuer: Authority
    bundles: TrustBundles
    trust: TrustDocument
    trust_hash: str
    trust_json: bytes
    nodes: Mapping[str, NodeRecord]
    registry: RegistryDocument
    registry_json: bytes
    rotation: RotationState


def read_view(store: AuthorityStore, now: datetime) -> View:
    """Read everything; called in a thread.  InterceptorError when the store cannot be used."""
    version = store.version()  # first: what changes meanwhile is read again
    trust, registry = store.trust_document(), store.registry()
    return View(
        version,
        store.issuer(now),
        trust.trust_bundles(),
        trust,
        trust.document_hash,
        trust.to_json(),
        {record.name: record for record in store.nodes()},
        registry,
        registry.to_json(),
        store.head().rotation,
    )


class Views:
    """Keeps the view of one store current; `run` must be running, in one task."""

    def __init__(self, store: AuthorityStore, now: Callable[[], datetime]) -> None:
        """Read the store for the first time; InterceptorError when it cannot be used."""
        self._store = store
        self._now = now
        self.last = read_view(store, now())
        self._read_at: float | None = None
        self._seen_at: float | None = None
        self._changed = trio.Event()
        self._failing = False
        self._reading = trio.Lock()
        self._told = ""
        self._tell()

    def current(self) -> View:
        """The view in force; Refused when the store has not been readable for too long."""
        if self.unread_seconds() > STALE_SECONDS:
            raise Refused(
                Code.AUTHORITY_UNAVAILABLE, "the authority cannot read its database: see its log there"
            )
        return self.last

    def unread_seconds(self) -> float:
        """How long ago the store could last be read."""
        return 0.0 if self._seen_at is None else trio.current_time() - self._seen_at

    async def run(self) -> None:
        """Look for changes until cancelled."""
        self._read_at = self._seen_at = trio.current_time()
        pause = LOOK_SECONDS
        while True:
            await trio.sleep(pause)
            began_at = trio.current_time()
            await self.look()
            # A large mesh that changes all the time leaves half of a processor to those who ask.
            pause = max(LOOK_SECONDS, trio.current_time() - began_at)

    async def look(self) -> None:
        """Look for a change now."""
        async with self._reading:
            try:
                await self._look()
            except InterceptorError as error:
                if not self._failing:
                    log.error("cannot read the authority's database: %s", error)  # noqa: TRY400
                self._failing = True
            else:
                self._seen_at = trio.current_time()
                self._failing = False

    async def _look(self) -> None:
        version = await trio.to_thread.run_sync(self._store.version)
        due = self._read_at is None or trio.current_time() - self._read_at > READ_AGAIN_SECONDS
        if version == self.last.version and not due:
            return
        self.last = await trio.to_thread.run_sync(read_view, self._store, self._now())
        self._read_at = trio.current_time()
        self._tell()
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _tell(self) -> None:
        """Say in the log, once each time it gets worse, that the intermediate is to be renewed."""
        outlook = intermediate_outlook(self.last.issuer, self._now())
        if outlook.state != self._told and outlook.remedy:
            log.warning(
                "the intermediate certificate is %s, until %s: %s",
                outlook.state,
                utc(self.last.issuer.not_after),
                outlook.remedy,
            )
        self._told = outlook.state

    async def wait_until(self, wanted: Callable[[View], bool], seconds: float) -> View | None:
        """The first view that is wanted, None when none was within the time."""
        with trio.move_on_after(seconds):
            while not wanted(self.last):
                await self._changed.wait()
        view = self.current()
        return view if wanted(view) else None
