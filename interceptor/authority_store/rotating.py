"""Rotation of root and intermediate: keys to the disk first, then one transaction, then what is over is removed.

Killed anywhere, a step has been made or not; in either case it, or the next, can be taken.
"""

from datetime import datetime

from interceptor.authority.rotation import (
    RotationState,
    RotationStatus,
    Step,
    laggards,
    require_permitted,
    status,
)
from interceptor.authority_store.base import StoreBase
from interceptor.authority_store.rows import read_head, read_nodes, read_trust_document, write_rotation
from interceptor.identity.authority import Authority
from interceptor.identity.certificates import fingerprint


class Rotating(StoreBase):
    """The steps of interceptor.authority.rotation, made."""

    def rotate(self, step: Step, now: datetime) -> RotationState:
        """Take a step; raises AuthorityError, with nothing changed, out of turn or while nodes lag behind."""
        with self.database.writing() as connection:
            head = read_head(connection)
            bundle_hash = read_trust_document(connection, head).bundle_hash
            nodes = read_nodes(connection, head.trust_domain)
            require_permitted(step, head.rotation, laggards(head.rotation, bundle_hash, nodes))
            new_root = None
            # Before new keys are written: they are encrypted by a passphrase only after that one has opened the old ones.
            self.issuers.load(head.rotation.active, now)
            if step is Step.PREPARE:
                issuer = Authority.create(head.trust_domain, now)
                self.issuers.add(issuer)
                new_root = fingerprint(issuer.root)
                connection.execute(
                    "INSERT INTO roots (fingerprint, pem) VALUES (?, ?)",
                    (new_root, issuer.trust_bundle.to_pem().decode("ascii")),
                )
            state = head.rotation.after(step, now, new_root)
            self.issuers.load(state.active, now)  # whoever issues from now on can
            write_rotation(connection, state)
            connection.execute("UPDATE authority SET version = version + 1")
            connection.execute(
                "DELETE FROM roots WHERE fingerprint NOT IN (?, ?)",
                (state.active, state.other or state.active),
            )
        self._discard_what_is_over()
        return state

    def rotate_intermediate(self, now: datetime) -> Authority:
        """Issue from a new intermediate at once; nodes need not be asked, since it travels with each certificate.

        Raises AuthorityError without the root key.
        """
        with self.database.writing() as connection:
            issuer = self.issuers.renew(read_head(connection).rotation.active, now)
            connection.execute(
                "UPDATE authority SET issuer_version = issuer_version + 1, version = version + 1"
            )
        return issuer

    def rotation_status(self) -> RotationStatus:
        """Where a rotation is, and who must be waited for."""
        with self.database.reading() as connection:
            head = read_head(connection)
            bundle_hash = read_trust_document(connection, head).bundle_hash
            return status(head.rotation, bundle_hash, read_nodes(connection, head.trust_domain))

    def _discard_what_is_over(self) -> None:
        with self.database.writing() as connection:
            self.issuers.discard_all_but(read_head(connection).rotation)
