"""The authority of one trust domain on disk: everything that it knows, and every change of it as one step.

`<directory>/issuers/` holds keys and certificates (issuers.py), `<directory>/authority.db` all else (database.py).
Services, agents and commands may have it open at the same time. Methods are safe to call from any thread, and block.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from interceptor.authority.rotation import Phase
from interceptor.authority_store.beliefs import Beliefs
from interceptor.authority_store.database import DATABASE, Database, new_database
from interceptor.authority_store.issuers import ISSUERS, Issuers, system_errors
from interceptor.authority_store.membership import Membership
from interceptor.authority_store.private_directory import PrivateDirectory, Tree, staging_name
from interceptor.authority_store.returning import Returning
from interceptor.authority_store.rotating import Rotating
from interceptor.authority_store.saved import Saved, Saving, first_rows, issuers_of
from interceptor.errors import StateError
from interceptor.identity.authority import Authority
from interceptor.identity.certificates import fingerprint
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.identity.strict_json import instant_text

NEEDED: Final = (DATABASE, ISSUERS)


class AuthorityStore(Membership, Returning, Beliefs, Rotating, Saving):
    """An authority that is open; `close` it when done. Its keys are in no repr."""

    @classmethod
    def create(
        cls,
        directory: Path,
        trust_domain: TrustDomain,
        now: datetime,
        *,
        passphrase: bytes | None = None,
        beside: Tree | None = None,
    ) -> Self:
        """Make a new authority where there is none; its parent directory must exist.

        With a passphrase, private keys are stored encrypted. `beside` are more files to begin with. Raises StateError, and leaves what it found as it was.
        """
        with _new(directory) as parent:
            issuer = Authority.create(trust_domain, now)
            files = Issuers(directory, trust_domain, passphrase).tree(issuer)
            content = new_database(_first_rows(issuer, now))
            parent.publish(directory.name, {**files, **(beside or {}), DATABASE: content})
        return cls.open(directory, now, passphrase=passphrase)

    @classmethod
    def restore(
        cls, directory: Path, saved: Saved, now: datetime, *, passphrase: bytes | None = None
    ) -> Self:
        """Make the authority that was saved where there is none; its parent directory must exist.

        Raises StateError for what cannot be used or cannot issue now, and leaves nothing behind then.
        """
        with _new(directory) as parent:
            tree: Tree = {ISSUERS: issuers_of(saved), DATABASE: new_database(first_rows(saved))}
            parent.publish(directory.name, tree)
        try:
            store = cls.open(directory, now, passphrase=passphrase)
            try:
                store.trust_document()
            except BaseException:
                store.close()
                raise
        except BaseException:
            discard(directory)
            raise
        return store

    @classmethod
    def open(cls, directory: Path, now: datetime | None, *, passphrase: bytes | None = None) -> Self:
        """Open an authority, after tidying up what a step that was interrupted left behind.

        With `now`, whoever issues is loaded at once, so that what is wrong with it shows; else when it is needed. Raises StateError for whatever else is found there: one line that says which file and what to do.
        """
        with system_errors(directory):
            if not os.path.lexists(directory):
                raise StateError(
                    f"there is no authority in {directory}: make one with 'interceptor ca init', or say with --dir where "
                    "it is"
                )
        with (
            system_errors(directory),
            PrivateDirectory.opened(directory.parent) as parent,
            parent.child(directory.name) as home,
        ):
            if missing := [name for name in NEEDED if name not in home.names()]:
                raise StateError(
                    f"{directory} holds no authority, it lacks {', '.join(missing)}: make one with "
                    "'interceptor ca init', or restore it from a backup"
                )
            home.require_private_file(DATABASE)
            database = Database.open(directory / DATABASE)
        try:
            store = cls(directory, database, passphrase)
            if now is not None:
                store.issuer(now)
        except BaseException:
            database.close()
            raise
        return store

    def __repr__(self) -> str:
        return f"AuthorityStore({self.trust_domain} in {self.directory})"


def discard(directory: Path) -> None:
    """Remove an authority that nobody has open, with its keys; StateError when that cannot be."""
    with system_errors(directory), PrivateDirectory.opened(directory.parent) as parent:
        parent.discard(directory.name)


def load_or_create(
    directory: Path, trust_domain: TrustDomain, now: datetime, *, passphrase: bytes | None = None
) -> AuthorityStore:
    """Open the authority of `trust_domain` in `directory`, made at the first call; StateError if it is another's."""
    with system_errors(directory), PrivateDirectory.opened(directory.parent) as parent:
        exists = parent.has_content(directory.name)
    if not exists:
        return AuthorityStore.create(directory, trust_domain, now, passphrase=passphrase)
    store = AuthorityStore.open(directory, None, passphrase=passphrase)
    try:
        _require_domain(store, trust_domain)
        store.issuer(now)
    except BaseException:
        store.close()
        raise
    return store


@contextmanager
def _new(directory: Path) -> Iterator[PrivateDirectory]:
    """The parent of a directory in which there is nothing; StateError."""
    with system_errors(directory), PrivateDirectory.opened(directory.parent) as parent:
        parent.discard(staging_name(directory.name))
        if parent.has_content(directory.name):
            raise StateError(f"{directory} is not empty: remove it, or choose another directory")
        yield parent


def _require_domain(store: AuthorityStore, trust_domain: TrustDomain) -> None:
    if store.trust_domain != trust_domain:
        raise StateError(
            f"{store.directory} holds the authority of trust domain {store.trust_domain}, the configuration says "
            f"{trust_domain}: set trustDomain to {store.trust_domain}, or remove {store.directory} to start a new "
            "authority"
        )


def _first_rows(issuer: Authority, now: datetime) -> Iterator[tuple[str, tuple[str, ...]]]:
    root = fingerprint(issuer.root)
    yield (
        (
            "INSERT INTO authority (id, trust_domain, phase, since, active, version, registry_version, issuer_version) "
            "VALUES (1, ?, ?, ?, ?, 1, 1, 1)"
        ),
        (issuer.trust_domain.name, Phase.STABLE.value, instant_text(now), root),
    )
    yield (
        "INSERT INTO roots (fingerprint, pem) VALUES (?, ?)",
        (root, issuer.trust_bundle.to_pem().decode("ascii")),
    )
