"""What goes into the trust document beside our own roots: revocations, trust bundles of others, aliases."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from interceptor.authority_store.base import StoreBase
from interceptor.authority_store.registry_rows import raise_registry_version
from interceptor.authority_store.returning import forget_return_tokens
from interceptor.authority_store.rows import compose_trust_document, read_head, read_revocations
from interceptor.errors import InvalidInput, quoted
from interceptor.identity.certificates import fingerprint
from interceptor.identity.node_id import NodeId
from interceptor.identity.revocation import Revocation, RevocationKind
from interceptor.identity.spiffe_id import SCHEME, TrustDomain
from interceptor.identity.strict_json import instant_text
from interceptor.identity.trust_bundle import TrustBundle, serial_numbers
from interceptor.identity.trust_document import MAX_TRUST_DOCUMENT_BYTES, TrustDocument


class Beliefs(StoreBase):
    """Changes of what nodes are to believe; each reaches them with the next trust document, or is refused here."""

    def revoke(self, kind: RevocationKind, value: str, why: str, now: datetime) -> None:
        """Let nobody believe an identity, certificate or node any more; what was revoked before stays as it was.

        Raises InvalidInput for a value that is not of its kind, an identity that nobody believes anyway, whoever
        issues now, and more revocations than nodes could be sent.
        """
        Revocation(kind, value, now, why)
        with self._believing() as connection:
            if kind is RevocationKind.SERIAL:
                self._require_not_issuing(connection, value)
            else:
                _require_believed(compose_trust_document(connection, read_head(connection)), value)
            connection.execute(
                "INSERT INTO revocations (value, kind, revoked_at, why) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (value, kind.value, instant_text(now), why),
            )
            if kind is RevocationKind.NODE:
                node_id = NodeId.parse(value)
                if node_id.trust_domain == self.trust_domain:
                    forget_return_tokens(connection, node_id.name)
                raise_registry_version(connection)

    def unrevoke(self, value: str) -> None:
        """Take a revocation back; raises InvalidInput if there is none."""
        with self._believing() as connection:
            removed = connection.execute("DELETE FROM revocations WHERE value = ?", (value,))
            if not removed.rowcount:
                raise InvalidInput(
                    f"{quoted(value)} is not revoked: 'interceptor ca revocations' lists what is"
                )
            raise_registry_version(connection)

    def revocations(self) -> tuple[Revocation, ...]:
        """What is revoked now."""
        with self.database.reading() as connection:
            return read_revocations(connection)

    def federate(self, bundle: TrustBundle) -> None:
        """Believe in another trust domain's roots, instead of those that it had before; not in our own's."""
        if bundle.trust_domain == self.trust_domain:
            raise InvalidInput(
                f"{bundle.trust_domain} is our own trust domain, its roots change by rotation only"
            )
        with self._believing() as connection:
            _require_of_nobody_else(compose_trust_document(connection, read_head(connection)), bundle)
            connection.execute(
                "INSERT OR REPLACE INTO federation (trust_domain, pem) VALUES (?, ?)",
                (bundle.trust_domain.name, bundle.to_pem().decode("ascii")),
            )

    def unfederate(self, trust_domain: TrustDomain) -> None:
        """Stop believing in another trust domain; raises InvalidInput if we did not."""
        with self._believing() as connection:
            removed = connection.execute(
                "DELETE FROM federation WHERE trust_domain = ?", (trust_domain.name,)
            )
            if not removed.rowcount:
                raise InvalidInput(
                    f"there is no trust bundle of {trust_domain}: 'interceptor ca status' lists them"
                )

    def add_alias(self, alias: TrustDomain) -> None:
        """Let identities of another trust domain count as our own's; InvalidInput for our own, and for too many."""
        with self._believing() as connection:
            connection.execute(
                "INSERT INTO aliases (trust_domain) VALUES (?) ON CONFLICT DO NOTHING", (alias.name,)
            )

    def remove_alias(self, alias: TrustDomain) -> None:
        """Let them count so no longer; InvalidInput if they did not."""
        with self._believing() as connection:
            if not connection.execute("DELETE FROM aliases WHERE trust_domain = ?", (alias.name,)).rowcount:
                raise InvalidInput(f"{alias} is no alias: 'interceptor ca status' lists them")

    def _require_not_issuing(self, connection: sqlite3.Connection, serial: str) -> None:
        root, intermediate = self.issuers.certificates(read_head(connection).rotation.active)
        for certificate, name, remedy in (
            (intermediate, "intermediate", "rotate intermediate"),
            (root, "root", "rotate prepare"),
        ):
            if serial_numbers((certificate,)) == (serial,):
                raise InvalidInput(
                    f"{serial} is the {name} that issues now, every certificate would be refused: replace it first, "
                    f"with 'interceptor ca {remedy}'"
                )

    @contextmanager
    def _believing(self) -> Iterator[sqlite3.Connection]:
        """A change of the trust document that nodes can be sent, or none at all."""
        with self.database.writing() as connection:
            yield connection
            connection.execute("UPDATE authority SET version = version + 1")
            size = len(compose_trust_document(connection, read_head(connection)).to_json())
            if size > MAX_TRUST_DOCUMENT_BYTES:
                raise InvalidInput(
                    f"trust document would have {size} bytes, at most {MAX_TRUST_DOCUMENT_BYTES} can be sent: take back "
                    "revocations of certificates that have ended"
                )


def _require_of_nobody_else(document: TrustDocument, bundle: TrustBundle) -> None:
    """InvalidInput for a root that another trust domain has: it would vouch for both."""
    new = {fingerprint(root) for root in bundle.roots}
    for other in document.bundles:
        shared = new & {fingerprint(root) for root in other.roots}
        if other.trust_domain != bundle.trust_domain and shared:
            raise InvalidInput(
                f"the root {min(shared)[:16]}… is one of {other.trust_domain} already, it cannot vouch for "
                f"{bundle.trust_domain} too"
            )


def _require_believed(document: TrustDocument, value: str) -> None:
    """InvalidInput for the identity of a trust domain that is neither ours, nor federated, nor an alias."""
    named = value.removeprefix(SCHEME).partition("/")[0]
    if named not in {domain.name for domain in (*document.trust_bundles().bundles, *document.aliases)}:
        raise InvalidInput(
            f"{value} is of trust domain {named}, which nobody believes: compare it with 'interceptor ca status'"
        )
