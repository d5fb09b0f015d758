"""An authority that is open: its database, its issuers, and whoever issues now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from interceptor.authority_store.issuers import Issuers
from interceptor.authority_store.rows import Head, read_head, read_trust_document
from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from datetime import datetime

    from interceptor.authority.documents import RegistryDocument
    from interceptor.authority_store.database import Database
    from interceptor.identity.authority import Authority
    from interceptor.identity.trust_document import TrustDocument

RETRY_RENEWAL: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class _Issuing:
    issuer: Authority
    stands_for: tuple[str, int]
    looked_at: datetime


class StoreBase:
    """What every part of the store needs; `database` and `issuers` are for those parts only."""

    def __init__(self, directory: Path, database: Database, passphrase: bytes | None) -> None:
        """Discard what was never finished; raises StateError."""
        self.directory = directory
        self.place = str(directory)  # for people; a copy's is not where the authority is
        self.database = database
        self.renewal_error: str | None = None
        with database.writing() as connection:
            head = read_head(connection)
            self.trust_domain = head.trust_domain
            self.issuers = Issuers(directory, head.trust_domain, passphrase)
            self.issuers.discard_all_but(head.rotation)
        self._issuing: _Issuing | None = None
        self._document: tuple[int, TrustDocument] | None = None
        self._registry: RegistryDocument | None = None

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()

    def version(self) -> int:
        """A number that every change raises which nodes must hear of; cheap, so that it can be polled."""
        return self.head().version

    def head(self) -> Head:
        """Where the authority stands now, whoever changed it."""
        with self.database.reading() as connection:
            return read_head(connection)

    def audit_path(self) -> Path | None:
        """Where the service writes its audit, None for the usual file in the directory."""
        with self.database.reading() as connection:
            (path,) = connection.execute("SELECT audit FROM authority").fetchone()
        return None if path is None else Path(path)

    def keep_audit_path(self, path: Path | None) -> None:
        """Say where it is from now on, so that commands write there too; StateError when that cannot be kept."""
        if path != self.audit_path():  # an authority can be served on a full disk
            with self.database.writing() as connection:
                connection.execute("UPDATE authority SET audit = ?", (None if path is None else str(path),))

    def issuer(self, now: datetime) -> Authority:
        """Whoever issues now, renewed in time.

        An intermediate that could not be renewed is used until it ends; `renewal_error` says why meanwhile. Raises
        StateError when there is none that can issue.
        """
        head = self.head()
        issuing = self._issuing
        if issuing is None or issuing.stands_for != (head.rotation.active, head.issuer_version):
            return self._load_issuer(now)
        if not issuing.issuer.needs_intermediate(now) or abs(now - issuing.looked_at) < RETRY_RENEWAL:
            return issuing.issuer
        try:
            return self._load_issuer(now)
        except InterceptorError as error:
            if now >= issuing.issuer.not_after:
                raise
            self._issuing = replace(issuing, looked_at=now)
            self.renewal_error = str(error)
            return issuing.issuer

    def issuer_as_it_is(self) -> Authority:
        """Whoever issues now, also one that is to be renewed or has ended: for those who only look."""
        with self.database.writing() as connection:  # nobody moves its files meanwhile; nothing is written
            return self.issuers.look(read_head(connection).rotation.active)

    def trust_document(self) -> TrustDocument:
        """What every node is to believe now."""
        with self.database.reading() as connection:
            head = read_head(connection)
            known = self._document
            if known is None or known[0] != head.version:
                known = self._document = (head.version, read_trust_document(connection, head))
            return known[1]

    def _load_issuer(self, now: datetime) -> Authority:
        with self.database.writing() as connection:
            head = read_head(connection)
            issuer = self.issuers.load(head.rotation.active, now)
        self._issuing = _Issuing(issuer, (head.rotation.active, head.issuer_version), now)
        self.renewal_error = None
        return issuer
