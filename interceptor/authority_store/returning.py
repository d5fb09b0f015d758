"""Return tokens: by which hash each node may come back, once, and what became of those before."""

import sqlite3
from datetime import datetime, timedelta
from typing import Final

from interceptor.authority.refusal import Code, Refused
from interceptor.authority.return_tokens import ReturnRecord, ReturnToken, check_return
from interceptor.authority_store.base import StoreBase
from interceptor.authority_store.registry_rows import raise_registry_version
from interceptor.authority_store.rows import is_revoked, read_return_token
from interceptor.errors import InvalidInput
from interceptor.identity.node_id import NodeId
from interceptor.identity.strict_json import instant_text

REMEMBERED: Final = 16  # tokens of one node that are over, of which it can be said what became of them


class Returning(StoreBase):
    """How nodes come back that have lost their keys."""

    def offer_return(self, node: str, offered: str, now: datetime) -> bool:
        """Let the token of this hash take the place of the node's one; False, with nothing changed, if it may not."""
        with self.database.writing() as connection:
            if not _may_return(connection, node) or self._is_node_revoked(connection, node):
                return False
            return replace_return_token(connection, node, offered, now)

    def redeem_return(self, text: str, node: str, offered: str, period: timedelta, now: datetime) -> bool:
        """Let a node back in, with its token used up; raises Refused. Says whether the offered one is in its place.

        Of any number of attempts at the same instant, from whatever process, one succeeds. What the node's certificates
        of before were worth ends.
        """
        try:
            token = ReturnToken.parse(text)
        except InvalidInput as error:
            raise Refused(Code.RETURN_TOKEN_UNKNOWN, str(error)) from None
        with self.database.writing() as connection:
            if self._is_node_revoked(connection, node):
                raise Refused(Code.NODE_REVOKED, f"node {node} is revoked")
            record = read_return_token(connection, token.hash())
            is_repeated = record is not None and bool(offered) and record.successor == offered
            successor = read_return_token(connection, offered) if is_repeated else None
            check_return(
                record,
                node,
                now,
                period=period,
                successor_offered=successor is not None and successor.ended_at is None,
            )
            if not _may_return(connection, node):
                raise Refused(Code.RETURN_TOKEN_UNKNOWN, f"node {node} has not joined, or was removed")
            _end(connection, node, offered, now, is_used=True)
            taken = replace_return_token(connection, node, offered, now) and bool(offered)
            connection.execute("UPDATE nodes SET joined_at = ? WHERE name = ?", (instant_text(now), node))
            raise_registry_version(connection)
        return taken

    def return_token(self, digest: str) -> ReturnRecord | None:
        """What is known of the token of this hash."""
        with self.database.reading() as connection:
            return read_return_token(connection, digest)

    def _is_node_revoked(self, connection: sqlite3.Connection, node: str) -> bool:
        return is_revoked(connection, str(NodeId(self.trust_domain, node)))


def replace_return_token(connection: sqlite3.Connection, node: str, offered: str, now: datetime) -> bool:
    """Let the offered token be the node's only live one; False if it was one before, and is over. Empty: none is live."""
    known = read_return_token(connection, offered) if offered else None
    if known is not None and (known.node != node or known.ended_at is not None):
        return False
    if known is None:
        _end(connection, node, offered, now, is_used=False)
    if offered:
        connection.execute(
            "INSERT INTO return_tokens (hash, node, created_at) VALUES (?, ?, ?) "
            "ON CONFLICT (hash) DO UPDATE SET created_at = excluded.created_at",
            (offered, node, instant_text(now)),
        )
    return True


def forget_return_tokens(connection: sqlite3.Connection, node: str) -> None:
    """Let no token of the node be worth anything."""
    connection.execute("DELETE FROM return_tokens WHERE node = ?", (node,))


def _end(connection: sqlite3.Connection, node: str, offered: str, now: datetime, *, is_used: bool) -> None:
    connection.execute(
        "UPDATE return_tokens SET ended_at = ?, used = ?, successor = ? WHERE node = ? AND ended_at IS NULL",
        (instant_text(now), int(is_used), offered or None, node),
    )
    connection.execute(
        "DELETE FROM return_tokens WHERE node = ? AND ended_at IS NOT NULL AND hash NOT IN (SELECT hash FROM "
        "return_tokens WHERE node = ? AND ended_at IS NOT NULL ORDER BY ended_at DESC, rowid DESC LIMIT ?)",
        (node, node, REMEMBERED),
    )


def _may_return(connection: sqlite3.Connection, node: str) -> bool:
    row = connection.execute("SELECT may_return FROM nodes WHERE name = ?", (node,)).fetchone()
    return row is not None and bool(row[0])
