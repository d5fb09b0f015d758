"""Keeps the policy in force the same as what the files say, or the last good one, and closes what it no longer permits.

A set that cannot be used leaves the one before in force, and is told of until it is repaired. At the start there is none
before: then everything is denied (`policy_pending`), and the agent is there to say why.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Protocol

import trio

from interceptor.agent.policy_files import SUFFIXES, PolicyFiles, PolicyTexts, collection_paused
from interceptor.agent.policy_journal import replace_files
from interceptor.agent.state import write_atomically
from interceptor.errors import InterceptorError, PolicyError
from interceptor.policy.documents import LegacyException
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.policy_set import PolicySet
from interceptor.proxy.redecide import redecide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from interceptor.agent.audit import Audit
    from interceptor.agent.policy_files import PolicySource
    from interceptor.config import Config
    from interceptor.policy.documents import Document, PolicyName
    from interceptor.proxy.context import WorkloadContext
    from interceptor.proxy.snapshot import Snapshot
    from interceptor.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
SETTLE_SECONDS = (
    0.1  # a file that is written anew is empty first, which says something else than what is meant
)
MOST_SETTLING = 5
RETRY_SECONDS = 10.0
MAX_DIFF_LINES = 5000  # of one event in the audit trail
UNKNOWN = (("", 0, 0, 0, 0),)  # the signature of what could not even be looked at
INTERNAL_ERROR = "internal error: see the agent's log"
MARKER = "policies.json"  # says in the state directory which documents there were


class Capturing(Protocol):
    """Whoever sees to it that everything is captured of which a set of policies must be asked."""

    def widen(self, policies: PolicySet) -> None: ...

    async def settle(self) -> int: ...


class PolicyKeeper:
    """The one owner of the policy snapshot. `error` is what is wrong with the files now, empty when nothing is."""

    def __init__(
        self,
        config: Config,
        policy: Snapshot[PolicySet],
        audit: Audit,
        contexts: Callable[[], Iterable[WorkloadContext]],
        now: Callable[[], datetime],
        metrics: Metrics,
        source: PolicySource | None = None,
        capturing: Callable[[], Capturing] | None = None,
    ) -> None:
        """The policies are files, unless there is another `source`; `capturing` is whom to tell what is about to change."""
        self._config = config
        self._policy = policy
        self._audit = audit
        self._contexts = contexts
        self._now = now
        self._metrics = metrics
        self._capturing = capturing
        self._files = source or PolicyFiles(config.paths.policies, mesh_of(config))
        self._marker = config.paths.state_dir / MARKER
        self._seen: object = None
        self._texts: Mapping[str, str] = {}
        self._asked_at = now()
        self._tried_at = -inf  # of trio's clock
        self._lock = trio.Lock()
        self._leads = True
        self.error = ""
        self.loaded_at = now()

    @property
    def directory(self) -> Path:
        """Where the documents are."""
        return self._config.paths.policies

    @property
    def not_read(self) -> tuple[str, ...]:
        """A warning for each thing in the directory that looks like none of ours: its author may mean it to count."""
        return tuple(
            f"{self.directory / name} is not read, its name does not end with {' or '.join(SUFFIXES)}"
            for name in self._files.not_read
        )

    def start(self) -> None:
        """Read the policies for the first time; what cannot be read denies everything until it is repaired."""
        try:
            self._require_directory()
            self._seen = self._files.signature()
            loaded = self._files.load()
            policies = self._build(loaded.documents)
        except PolicyError as error:
            self._deny_everything(str(error))
            return
        except Exception:
            log.exception("the policies could not be read")
            self._deny_everything(INTERNAL_ERROR)
            return
        self._policy.replace(policies)
        self._note_what_changed_meanwhile(loaded)
        self._accept(loaded)
        self._remember(loaded)
        log.info("%d policy documents in %s", len(loaded.documents), self.directory)

    def _deny_everything(self, error: str) -> None:
        self.error = error
        pending = f"the policies could not be read when the agent started: {error}"
        self._policy.replace(replace(self._policy.value, pending=pending))
        log.error("%s; everything is denied until that is repaired", pending)
        self._audit.policy_refused("start of the agent", error)
        self._metrics.set_policies(0, refused=True)

    def stop_leading(self) -> None:
        """Go on asking about what is open here; what is to be written and captured is another agent's from now on."""
        self._leads = False
        self._capturing = None

    async def run(self) -> None:
        """Follow the files and the expiry of exceptions, for ever."""
        while True:
            await trio.sleep(POLL_SECONDS)
            try:
                await self._follow_files()
                await self._follow_expiry()
            except Exception:
                # A fault of ours, with these files: what is in force stays, and the agent goes on.
                log.exception("the policies could not be followed")
                self._refuse(INTERNAL_ERROR, "files")

    async def _follow_files(self) -> None:
        async with self._lock:
            try:
                try:
                    signature = await self._settled()
                except PolicyError:
                    self._seen = UNKNOWN  # whatever is there next time is looked at
                    raise
                if signature == self._seen and not self._is_time_to_try_again():
                    return
                self._seen, self._tried_at = signature, trio.current_time()
                self._require_directory()
                loaded = await trio.to_thread.run_sync(self._files.load)
                await self._put_in_force(loaded, loaded.author)
            except PolicyError as error:
                self._refuse(str(error), "files")

    async def _settled(self) -> object:
        """What is there, once it stays the same for a moment, or after half a second."""
        signature = await trio.to_thread.run_sync(self._files.signature)
        for _ in range(MOST_SETTLING):
            if signature == self._seen:
                break
            await trio.sleep(SETTLE_SECONDS)
            before, signature = signature, await trio.to_thread.run_sync(self._files.signature)
            if signature == before:
                break
        return signature

    def _is_time_to_try_again(self) -> bool:
        """What could not be used may be usable now though no file changed: a right given back, a disk that came back."""
        return bool(self.error) and trio.current_time() >= self._tried_at + RETRY_SECONDS

    async def apply(self, changed: Mapping[str, str], by: str) -> int:
        """Write files into the directory and put the set in force; returns how many connections that closed.

        All files count or none, also for an agent after this one. PolicyError when the set would not be usable: nothing
        is written then.
        """
        async with self._lock:
            self._require_directory()
            await trio.to_thread.run_sync(self._files.load, changed)
            try:
                self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            except OSError as error:
                raise PolicyError(f"{self.directory} cannot be made: {error.strerror}") from error
            await trio.to_thread.run_sync(replace_files, self.directory, changed)
            try:
                self._seen = await trio.to_thread.run_sync(self._files.signature)
                return await self._put_in_force(await trio.to_thread.run_sync(self._files.load), by)
            except PolicyError as error:  # somebody else changed something meanwhile
                self._refuse(str(error), by)
                raise

    async def candidate(self, changed: Mapping[str, str]) -> PolicySet:
        """What would be in force with these files' texts instead; PolicyError when they cannot be used."""
        async with self._lock:
            self._require_directory()
            loaded = await trio.to_thread.run_sync(self._files.load, changed)
            return await trio.to_thread.run_sync(self._build, loaded.documents)

    async def _put_in_force(self, loaded: PolicyTexts, by: str) -> int:
        before = self._policy.value
        policies = await trio.to_thread.run_sync(self._build, loaded.documents)
        # In a thread, as everything that looks at each document: of ten thousand it takes a second.
        is_same = await trio.to_thread.run_sync(lambda: policies == before)
        if is_same and not self.error:
            self._accept(loaded)
            await trio.to_thread.run_sync(self._remember, loaded)
            return 0
        if self._capturing is not None:
            self._capturing().widen(policies)
        self._policy.replace(policies)
        closed = await self.redecide()
        changes = await trio.to_thread.run_sync(changes_between, before.documents, policies.documents)
        diff = await trio.to_thread.run_sync(diff_between, self._texts, loaded.all_texts, changes)
        if self._leads:
            self._audit.policy_changed(by, changes, closed, diff)
        self._accept(loaded)
        await trio.to_thread.run_sync(self._remember, loaded)
        summary = ", ".join(f"{len(names)} {what}" for what, names in changes.items())
        log.info("policies changed by %s: %s; %d connections closed", by, summary, closed)
        return closed

    async def redecide(self) -> int:
        """Ask the policy in force about every open connection; returns how many were closed."""
        closed = 0
        for context in self._contexts():
            closed += await redecide(context)
        if self._capturing is not None:
            closed += await self._capturing().settle()
        return closed

    async def _follow_expiry(self) -> None:
        before, self._asked_at = self._asked_at, self._now()
        ended = [
            document.head.name
            for document in self._policy.value.documents
            if isinstance(document, LegacyException) and before < document.expires <= self._asked_at
        ]
        if ended:
            log.warning("%s ended; %d connections closed", ", ".join(map(str, ended)), await self.redecide())

    def _require_directory(self) -> None:
        """A directory that vanished is no set without policies: it is an accident, or an attack."""
        if self.directory.exists():
            return
        remembered = self._remembered()
        if remembered is None or remembered:
            what = "what was in it" if remembered is None else f"the {len(remembered)} documents in it"
            raise PolicyError(
                f"{self.directory} is gone with {what}: put it back, or make it empty if there shall be no policies"
            )

    def _remembered(self) -> Mapping[str, str] | None:
        """The documents that were in force last, each with a digest; None if nobody knows which."""
        try:
            found = json.loads(self._marker.read_bytes())["documents"]
            return {str(name): str(digest) for name, digest in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _remember(self, loaded: PolicyTexts) -> None:
        """Keep on the disk which documents are in force, to know what becomes of them while no agent runs."""
        documents = digests(loaded.texts)
        if self._leads and self._remembered() != documents:
            try:
                write_atomically(self._marker, json.dumps({"documents": documents}).encode())
            except InterceptorError as error:
                log.warning("%s", error)

    def _note_what_changed_meanwhile(self, loaded: PolicyTexts) -> None:
        if not self._marker.exists():
            return  # the first start: nothing was in force before
        before, after = self._remembered() or {}, digests(loaded.texts)
        changes = {
            "added": sorted(after.keys() - before.keys()),
            "removed": sorted(before.keys() - after.keys()),
            "changed": sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
        }
        if any(changes.values()):
            diff = diff_between({}, loaded.texts, changes)  # of what was before only the digests are known
            self._audit.policy_changed(f"{loaded.author}, while no agent ran", changes, 0, diff)

    def _build(self, documents: tuple[Document, ...]) -> PolicySet:
        policy = self._config.policy
        with collection_paused():
            return PolicySet(self._config.mode, documents, policy.root_namespace, policy.address_mismatch)

    def _accept(self, loaded: PolicyTexts) -> None:
        self._texts = loaded.all_texts
        self.error = ""
        self.loaded_at = self._now()
        self._metrics.set_policies(len(loaded.documents), refused=False)

    def _refuse(self, error: str, by: str) -> None:
        if error != self.error:
            log.error("policies refused, those before stay in force: %s", error)
            if self._leads:
                self._audit.policy_refused(by, error)
        self.error = error
        self._metrics.set_policies(len(self._policy.value.documents), refused=True)


def digests(texts: Mapping[str, str]) -> dict[str, str]:
    """For each document a number that another text of it would not have."""
    return {name: hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for name, text in texts.items()}


def diff_between(
    before: Mapping[str, str], after: Mapping[str, str], changes: Mapping[str, list[str]]
) -> list[str]:
    """The lines that changed, document by document; of more than are told the last line says so."""
    names = sorted(name for found in changes.values() for name in found)
    lines: list[str] = []
    for number, name in enumerate(names):
        old, new = before.get(name, ""), after.get(name, "")
        lines += difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, lineterm="", n=1)
        if len(lines) > MAX_DIFF_LINES:
            more = len(lines) - MAX_DIFF_LINES
            rest = f"and {more} more lines of this document, and {len(names) - number - 1} more documents"
            return [*lines[:MAX_DIFF_LINES], rest]
    return lines


def mesh_of(config: Config) -> MeshNames:
    """What documents mean in the mesh of this configuration."""
    return MeshNames(config.policy.root_namespace, config.trust_domain.name)


def changes_between(before: Iterable[Document], after: Iterable[Document]) -> dict[str, list[str]]:
    """The names of the documents that were added, removed and changed."""
    old, new = ({document.head.name: document for document in found} for found in (before, after))

    def shown(names: Iterable[PolicyName]) -> list[str]:
        return [str(name) for name in sorted(names)]

    return {
        "added": shown(new.keys() - old.keys()),
        "removed": shown(old.keys() - new.keys()),
        "changed": shown(name for name in new.keys() & old.keys() if new[name] != old[name]),
    }
