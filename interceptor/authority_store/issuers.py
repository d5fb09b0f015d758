"""The issuers on disk, each in a directory named for its root: `issuers/<first 16 digits of the fingerprint>`.

Keys come first and the database's word second: an issuer that the database does not name was made by a step that did
not end, or belongs to one that did, and is discarded. All of this happens under the database's write lock.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from interceptor.authority.rotation import RotationState
from interceptor.authority_store.issuer_files import (
    check_times,
    issuer_files,
    load_issuer,
    read_certificates,
    read_files,
    renew_intermediate,
    replace_intermediate,
    unusable,
)
from interceptor.authority_store.private_directory import PrivateDirectory, Tree
from interceptor.errors import StateError
from interceptor.identity.authority import Authority
from interceptor.identity.certificates import fingerprint
from interceptor.identity.spiffe_id import TrustDomain

ISSUERS: Final = "issuers"
_NAME_DIGITS: Final = 16


def issuer_name(root_fingerprint: str) -> str:
    """The directory of an issuer."""
    return root_fingerprint[:_NAME_DIGITS]


@contextmanager
def system_errors(directory: Path) -> Iterator[None]:
    """Turn what the system refuses into the one line about it."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise StateError(
            f"authority in {directory} cannot be used ({error.filename or 'file'}: {reason}): "
            "check disk space and permissions there"
        ) from None


class Issuers:
    """The issuers of one authority; holds the passphrase of their keys, and no key."""

    def __init__(self, directory: Path, trust_domain: TrustDomain, passphrase: bytes | None) -> None:
        self._directory = directory
        self._trust_domain = trust_domain
        self._passphrase = passphrase

    def tree(self, issuer: Authority) -> Tree:
        """One issuer as it is put into a new authority's directory."""
        files = issuer_files(issuer, self._passphrase)
        return {ISSUERS: {issuer_name(fingerprint(issuer.root)): files}}

    def add(self, issuer: Authority) -> None:
        """Put a new issuer beside the others."""
        with self._opened() as issuers:
            name = issuer_name(fingerprint(issuer.root))
            issuers.publish(name, issuer_files(issuer, self._passphrase))

    def files(self) -> dict[str, dict[str, bytes]]:
        """Every issuer's files, by its name; keys are in them as they are on disk."""
        with self._opened() as issuers:
            return {name: self._files(issuers, name) for name in sorted(issuers.names())}

    def put(self, name: str, files: dict[str, bytes]) -> None:
        """Have an issuer of these files: a new one, or one whose intermediate is another now."""
        with self._opened() as issuers:
            if name not in issuers.names():
                issuers.publish(name, files)
                return
            with issuers.child(name) as home:
                replace_intermediate(home, files)

    def load(self, root_fingerprint: str, now: datetime) -> Authority:
        """Read an issuer that can issue now, its intermediate renewed if that is due and the root key is here."""
        with self._opened() as issuers, self._issuer(issuers, root_fingerprint) as home:
            issuer = self._read(home, root_fingerprint)
            check_times(home.path, issuer, now)
            if issuer.root_key is None or not issuer.needs_intermediate(now):
                return issuer
            return renew_intermediate(home, issuer, now, self._passphrase)

    def look(self, root_fingerprint: str) -> Authority:
        """Read an issuer as it is, whatever its times say; nothing is changed."""
        with self._opened() as issuers, self._issuer(issuers, root_fingerprint) as home:
            return self._read(home, root_fingerprint)

    def certificates(self, root_fingerprint: str) -> tuple[x509.Certificate, x509.Certificate]:
        """Root and intermediate of an issuer; its keys are not looked at."""
        with self._opened() as issuers, self._issuer(issuers, root_fingerprint) as home:
            return read_certificates(home, self._trust_domain)

    def renew(self, root_fingerprint: str, now: datetime) -> Authority:
        """Renew an intermediate although it is not due; raises AuthorityError without the root key."""
        with self._opened() as issuers, self._issuer(issuers, root_fingerprint) as home:
            issuer = self._read(home, root_fingerprint)
            return renew_intermediate(home, issuer, now, self._passphrase)

    def discard_all_but(self, state: RotationState) -> None:
        """Remove, with their keys, the issuers that the state does not name, and what was never finished.

        Nothing, and StateError, when the one in use is not there: the state may be that of an old backup.
        """
        kept = {issuer_name(each) for each in (state.active, state.other) if each is not None}
        with self._opened() as issuers:
            self._require(issuers, state.active)
            for name in sorted(issuers.names() - kept):
                issuers.discard(name)

    @contextmanager
    def _opened(self) -> Iterator[PrivateDirectory]:
        with (
            system_errors(self._directory),
            PrivateDirectory.opened(self._directory.parent) as parent,
            parent.child(self._directory.name) as home,
            home.child(ISSUERS) as issuers,
        ):
            yield issuers

    @contextmanager
    def _issuer(self, issuers: PrivateDirectory, root_fingerprint: str) -> Iterator[PrivateDirectory]:
        self._require(issuers, root_fingerprint)
        with issuers.child(issuer_name(root_fingerprint)) as home:
            yield home

    def _files(self, issuers: PrivateDirectory, name: str) -> dict[str, bytes]:
        with issuers.child(name) as home:
            return read_files(home)

    def _require(self, issuers: PrivateDirectory, root_fingerprint: str) -> None:
        name = issuer_name(root_fingerprint)
        if name not in issuers.names():
            raise unusable(issuers.path, f"lacks {name}, the issuer in use")

    def _read(self, home: PrivateDirectory, root_fingerprint: str) -> Authority:
        issuer = load_issuer(home, self._trust_domain, self._passphrase)
        if fingerprint(issuer.root) != root_fingerprint:
            raise unusable(home.path, "its root certificate is another than the database names")
        return issuer
