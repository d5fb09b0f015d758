"""The state of an authority in a Secret: taken out, changed as one step, and put back if nobody else was faster.

A step is made on a copy in a directory of its own, by the same code as on the disk of a host, and with the root keys in
it; what comes out replaces the Secret only while that has the version of which the copy was made. So a step that dies
half-way has changed nothing, and of two at once one is made after the other, on what the first has left.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from interceptor.authority_service.shared_objects import read, write
from interceptor.authority_store import AuthorityStore
from interceptor.errors import ClusterError, StateError
from interceptor.shared_authority.objects import Holder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from interceptor.authority_store import Saved
    from interceptor.cluster.head import ObjectKey
    from interceptor.identity.spiffe_id import TrustDomain
    from interceptor.kubernetes.client import ApiClient
    from interceptor.shared_authority.objects import Stored

ATTEMPTS: Final = 5
_PREFIX: Final = "step-"
_T = TypeVar("_T")


class SharedState:
    """The state in one Secret; `home` is a directory in memory, of our own, for what a step needs."""

    def __init__(self, client: ApiClient, key: ObjectKey, home: Path, passphrase: bytes | None) -> None:
        self._client = client
        self.key = key
        self.home = home
        self.passphrase = passphrase

    async def load(self) -> Stored | None:
        """What is there, None when there is no authority yet; ClusterError."""
        return await read(self._client, Holder.SECRET, self.key)

    async def create(self, trust_domain: TrustDomain, now: datetime) -> None:
        """Make a new authority, unless somebody else was faster; ClusterError."""

        def new() -> Saved:
            with _scratch(self.home) as place:
                store = AuthorityStore.create(place, trust_domain, now, passphrase=self.passphrase)
                with closing(store):
                    return store.saved()

        content = await trio.to_thread.run_sync(new)
        await write(self._client, Holder.SECRET, self.key, content, None)

    async def step(
        self,
        change: Callable[[AuthorityStore], _T],
        now: datetime,
        *,
        may_write: Callable[[], bool] = lambda: True,
    ) -> _T:
        """Make a change, or look at everything; again on what others left, when they were faster.

        Raises what `change` raises, ClusterError, StateError when there is no authority, or none that can be used:
        then nothing has changed.  Only when the API did not answer to the write it is not known.
        """
        for _ in range(ATTEMPTS):
            before = await self.load()
            if before is None:
                raise StateError(
                    f"there is no authority in Secret {self.key}: put it back from a backup; where there never was one, "
                    "replicas make it when they start"
                )
            content, result = await trio.to_thread.run_sync(self._changed, before.content, change, now)
            if content == before.content:
                return result
            if not may_write():
                raise ClusterError("this replica does not lead any more, nothing was changed")
            if await write(self._client, Holder.SECRET, self.key, content, before):
                return result
        raise ClusterError(f"Secret {self.key} was changed by others {ATTEMPTS} times meanwhile: repeat it")

    def _changed(
        self, saved: Saved, change: Callable[[AuthorityStore], _T], now: datetime
    ) -> tuple[Saved, _T]:
        with _scratch(self.home) as place:
            store = AuthorityStore.restore(place, saved, now, passphrase=self.passphrase)
            with closing(store):
                store.place = f"Secret {self.key}"
                result = change(store)
                return store.saved(), result


@contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    """A place for an authority that is gone, keys and all, at the end of the block."""
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home))
    try:
        yield directory / "authority"
    finally:
        shutil.rmtree(directory)


def prepare_scratch(home: Path) -> None:
    """Make the directory; StateError."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"cannot use the directory {home}: {error.strerror}") from None


def prepare_home(home: Path) -> None:
    """The same, for the service, and remove what a step left in it that was killed; StateError."""
    prepare_scratch(home)
    try:
        for left in home.glob(f"{_PREFIX}*"):
            shutil.rmtree(left)
    except OSError as error:
        raise StateError(f"cannot use the directory {home}: {error.strerror}") from None
