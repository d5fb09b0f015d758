"""Which of several replicas leads: a Lease is held, renewed, and given back at the end."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

import trio

from interceptor.authority_service.shared_objects import CONFLICT, JSON, NOT_FOUND
from interceptor.errors import ClusterError, InvalidInput
from interceptor.kubernetes.client import MAX_STATUS_BYTES, ApiRefusal
from interceptor.shared_authority.lease import (
    GOOD_SECONDS,
    LOOK_SECONDS,
    RENEW_SECONDS,
    Lease,
    collection,
    may_take,
    parse_lease,
    path,
    released,
    seen,
    taken,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from interceptor.cluster.head import ObjectKey
    from interceptor.kubernetes.client import ApiClient
    from interceptor.shared_authority.lease import Sight

log = logging.getLogger(__name__)

RELEASE_SECONDS: Final = 2.0


class Leadership:
    """One replica's part in it; `run` must be running."""

    def __init__(self, client: ApiClient, key: ObjectKey, me: str, now: Callable[[], datetime]) -> None:
        """`me` is a name that no other replica has; `now` is for those who read the Lease, nothing depends on it."""
        self._client = client
        self._key = key
        self._me = me
        self._now = now
        self._sight: Sight | None = None
        self._leads_until = -math.inf
        self._failing = False

    @property
    def is_ours(self) -> bool:
        """Whether we lead at this moment; it ends by itself when the API is away."""
        return trio.current_time() < self._leads_until

    async def run(self) -> None:
        """Until cancelled; the next replica need not wait then."""
        try:
            led = False
            while True:
                await self._try_round()
                if self.is_ours is not led:
                    led = self.is_ours
                    log.info("this replica %s", "leads now" if led else "does not lead any more")
                await trio.sleep(RENEW_SECONDS if self.is_ours else LOOK_SECONDS)
        finally:
            with trio.move_on_after(RELEASE_SECONDS, shield=True):
                await self._release()

    async def _try_round(self) -> None:
        try:
            with trio.move_on_after(GOOD_SECONDS):
                await self._round()
        except (ClusterError, InvalidInput) as error:
            if not self._failing:
                log.error("cannot see who leads, Lease %s: %s", self._key, error)  # noqa: TRY400
            self._failing = True
        else:
            self._failing = False

    async def _round(self) -> None:
        began_at = trio.current_time()
        lease = await self._read()
        if lease is not None:
            self._sight = seen(self._sight, lease, trio.current_time())
            if not may_take(self._sight, self._me, trio.current_time()):
                self._leads_until = -math.inf
                return
        if await self._write(taken(self._key, self._me, lease, self._now()), lease):
            self._leads_until = began_at + GOOD_SECONDS
        else:
            self._leads_until = -math.inf

    async def _read(self) -> Lease | None:
        try:
            return parse_lease(await self._client.get(path(self._key), {}, JSON, MAX_STATUS_BYTES))
        except ApiRefusal as refusal:
            if refusal.status == NOT_FOUND:
                return None
            raise

    async def _write(self, sent: bytes, before: Lease | None) -> bool:
        try:
            if before is None:
                await self._client.post(collection(self._key.namespace), sent)
            else:
                await self._client.put(path(self._key), sent)
        except ApiRefusal as refusal:
            if refusal.status == CONFLICT:
                return False
            raise
        return True

    async def _release(self) -> None:
        if not self.is_ours:
            return
        self._leads_until = -math.inf
        try:
            lease = await self._read()
            if lease is not None and lease.holder == self._me:
                await self._write(released(self._key, lease, self._now()), lease)
        except (ClusterError, InvalidInput) as error:
            log.warning("the next leader must wait until our Lease %s has ended: %s", self._key, error)
