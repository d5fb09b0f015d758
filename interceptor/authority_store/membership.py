"""Tokens, nodes, and what nodes report."""

import secrets
import sqlite3
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from interceptor.authority.admission import AllowPattern
from interceptor.authority.documents import RegistryDocument
from interceptor.authority.node_record import NodeRecord
from interceptor.authority.refusal import Code, Refused
from interceptor.authority.reports import NodeReport
from interceptor.authority.tokens import ID_BYTES, SECRET_BYTES, Token, TokenRecord, check_token
from interceptor.authority_store.base import StoreBase
from interceptor.authority_store.registry_rows import (
    raise_registry_version,
    read_registry,
    release_node,
    store_report,
)
from interceptor.authority_store.returning import forget_return_tokens, replace_return_token
from interceptor.authority_store.rows import is_revoked, patterns_text, read_head, read_nodes, read_tokens
from interceptor.errors import InvalidInput, quoted
from interceptor.identity.node_id import NodeId
from interceptor.identity.strict_json import instant_text

MIN_TOKEN_LIFE: Final = timedelta(seconds=1)
MAX_TOKEN_LIFE: Final = timedelta(days=7)
MAX_TOKENS: Final = 10_000
TOKEN_MEMORY: Final = timedelta(days=30)  # so long it can be said when a token was used


class Membership(StoreBase):
    """The nodes of the mesh: how they come, what they may, and how they go."""

    def create_token(
        self, node: str, ttl: timedelta, allowed: tuple[AllowPattern, ...], now: datetime
    ) -> str:
        """Make a token with which `node` can join once within `ttl`, and will then be allowed these identities.

        Raises InvalidInput for a name that is none, a revoked node, a life out of range, and nothing allowed.
        """
        node_id = NodeId(self.trust_domain, node)
        if not allowed:
            raise InvalidInput(f"node {node} would be allowed nothing, give at least one pattern")
        if not MIN_TOKEN_LIFE <= ttl <= MAX_TOKEN_LIFE:
            raise InvalidInput(f"token life of {ttl.total_seconds():g} s refused, choose 1 s to 7 days")
        with self.database.writing() as connection:
            head = read_head(connection)
            if is_revoked(connection, str(node_id)):
                raise InvalidInput(f"{node_id} is revoked: 'interceptor ca unrevoke {node_id}' first")
            connection.execute("DELETE FROM tokens WHERE expires_at < ?", (instant_text(now - TOKEN_MEMORY),))
            (count,) = connection.execute("SELECT count(*) FROM tokens").fetchone()
            if count >= MAX_TOKENS:
                raise InvalidInput(f"{count} tokens are kept already, wait until the oldest are forgotten")
            token = Token(
                head.rotation.active, secrets.token_hex(ID_BYTES), secrets.token_bytes(SECRET_BYTES)
            )
            connection.execute(
                "INSERT INTO tokens (id, secret_hash, node, allowed, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    token.id,
                    token.secret_hash(),
                    node,
                    patterns_text(allowed),
                    instant_text(now),
                    instant_text(now + ttl),
                ),
            )
        return token.text()

    def tokens(self) -> tuple[TokenRecord, ...]:
        """The tokens that were made in the last month."""
        with self.database.reading() as connection:
            return read_tokens(connection)

    def redeem_token(self, text: str, node: str, now: datetime, offered: str = "") -> bool:
        """Let a node in with its token, which is used up from now on; raises Refused, and then nothing has changed.

        Says whether it may come back with the return token of the hash that it offered.

        Of any number of attempts at the same instant, from whatever process, one succeeds.
        """
        try:
            token = Token.parse(text)
        except InvalidInput as error:
            raise Refused(Code.TOKEN_INVALID, str(error)) from None
        with self.database.writing() as connection:
            record = check_token(token, next(iter(read_tokens(connection, token.id)), None), node, now)
            if is_revoked(connection, str(NodeId(self.trust_domain, node))):
                raise Refused(Code.NODE_REVOKED, f"node {node} is revoked")
            connection.execute(
                "UPDATE tokens SET used_at = ? WHERE id = ? AND used_at IS NULL",
                (instant_text(now), token.id),
            )
            _put_node(connection, node, record.allowed, now, may_return=True)
            return replace_return_token(connection, node, offered, now) and bool(offered)

    def add_node(self, node: str, allowed: tuple[AllowPattern, ...], now: datetime) -> None:
        """Let a node in without a token: the one that the authority is embedded in. One that is in stays as it is."""
        NodeId(self.trust_domain, node)
        with self.database.writing() as connection:
            if not read_nodes(connection, self.trust_domain, node):
                _put_node(connection, node, allowed, now, may_return=False)

    def let_in(self, node: str, allowed: tuple[AllowPattern, ...], now: datetime) -> None:
        """Let a node in that has proven itself otherwise, again and again; raises Refused for one that is revoked.

        What it has reported stays; what its certificates of before were worth ends, as with a new token. With a return
        token it cannot come, it would not be asked for its proof then.
        """
        name = str(NodeId(self.trust_domain, node))
        with self.database.writing() as connection:
            if is_revoked(connection, name):
                raise Refused(Code.NODE_REVOKED, f"node {node} is revoked")
            _put_node(connection, node, allowed, now, may_return=False)
            forget_return_tokens(connection, node)

    def know_nodes(self, records: Iterable[NodeRecord]) -> None:
        """Have these nodes too, with what they have told, as another replica knows them."""
        with self.database.writing() as connection:
            for record in records:
                _put_node(connection, record.name, record.allowed, record.joined_at, may_return=False)
                if record.report is not None and record.reported_at is not None:
                    connection.execute(
                        "UPDATE nodes SET report = ?, reported_at = ? WHERE name = ?",
                        (record.report.to_json(), instant_text(record.reported_at), record.name),
                    )

    def node(self, name: str) -> NodeRecord | None:
        """What is known of a node, None if there is none of this name."""
        with self.database.reading() as connection:
            return next(iter(read_nodes(connection, self.trust_domain, name)), None)

    def nodes(self) -> tuple[NodeRecord, ...]:
        """All nodes by name."""
        with self.database.reading() as connection:
            return read_nodes(connection, self.trust_domain)

    def set_allowed(self, name: str, allowed: tuple[AllowPattern, ...]) -> None:
        """Replace what a node may ask for; certificates that it has stay valid. Raises InvalidInput for no node."""
        with self.database.writing() as connection:
            self._require_node(connection, name)
            connection.execute("UPDATE nodes SET allowed = ? WHERE name = ?", (patterns_text(allowed), name))
            raise_registry_version(connection)

    def remove_node(self, name: str) -> None:
        """Forget a node, which can ask for nothing any more until it joins anew. Raises InvalidInput for no node."""
        with self.database.writing() as connection:
            self._require_node(connection, name)
            connection.execute("DELETE FROM nodes WHERE name = ?", (name,))
            forget_return_tokens(connection, name)
            release_node(connection, name)

    def report(self, node: str, report: NodeReport, now: datetime) -> None:
        """Keep what a node reports of itself.

        Raises Refused, with the report kept, if it has workloads that others will not hear of: their identity is not
        allowed there, or another node has their name or address already. Raises Refused, with nothing changed, for a
        node that has not joined and workloads of another node.
        """
        strangers = {workload.node for workload in report.workloads} - {node}
        if strangers:
            raise Refused(
                Code.REQUEST_MALFORMED, f"node {node} reports workloads of node {quoted(min(strangers))}"
            )
        with self.database.writing() as connection:
            head = read_head(connection)
            record = next(iter(read_nodes(connection, self.trust_domain, node)), None)
            if record is None:
                raise Refused(Code.NODE_NOT_AUTHORISED, f"node {node} has not joined, or was removed")
            problem = store_report(connection, head, record, report, now)
        if problem is not None:
            raise problem

    def registry(self) -> RegistryDocument:
        """The workloads of all nodes, as every node may know them."""
        with self.database.reading() as connection:
            head = read_head(connection)
            known = self._registry
            if known is None or known.version != head.registry_version:
                known = self._registry = read_registry(connection, head)
            return known

    def _require_node(self, connection: sqlite3.Connection, name: str) -> None:
        if not read_nodes(connection, self.trust_domain, name):
            raise InvalidInput(f"no node is called {quoted(name)}: 'interceptor ca nodes' lists them")


def _put_node(
    connection: sqlite3.Connection,
    node: str,
    allowed: tuple[AllowPattern, ...],
    now: datetime,
    *,
    may_return: bool,
) -> None:
    connection.execute(
        "INSERT INTO nodes (name, allowed, joined_at, may_return) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET allowed = excluded.allowed, joined_at = excluded.joined_at, "
        "may_return = excluded.may_return",
        (node, patterns_text(allowed), instant_text(now), int(may_return)),
    )
    raise_registry_version(connection)
