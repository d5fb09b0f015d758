"""Values to rows of the database and back; a row that cannot be read is StateError, never a wrong value."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from interceptor.authority.admission import AllowPattern
from interceptor.authority.node_record import NodeRecord
from interceptor.authority.reports import NodeReport
from interceptor.authority.return_tokens import ReturnRecord
from interceptor.authority.rotation import Phase, RotationState
from interceptor.authority.tokens import TokenRecord
from interceptor.errors import InvalidInput, StateError
from interceptor.identity.node_id import NodeId
from interceptor.identity.revocation import Revocation, RevocationKind, RevocationList
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.identity.strict_json import instant_text, parse_instant
from interceptor.identity.trust_bundle import TrustBundle
from interceptor.identity.trust_document import TrustDocument

MAX_PATTERNS = 100  # of one node


@dataclass(frozen=True, slots=True)
class Head:
    """The one row that says where the authority stands."""

    trust_domain: TrustDomain
    rotation: RotationState
    version: int
    registry_version: int
    issuer_version: int


def read_head(connection: sqlite3.Connection) -> Head:
    """Where the authority stands."""
    row = connection.execute(
        "SELECT trust_domain, phase, since, active, other, version, registry_version, issuer_version FROM authority"
    ).fetchone()
    with _readable("authority"):
        if row is None:
            raise InvalidInput("it is empty")
        state = RotationState(Phase(row[1]), parse_instant(row[2]), row[3], row[4])
        return Head(TrustDomain(row[0]), state, *row[5:])


def write_rotation(connection: sqlite3.Connection, state: RotationState) -> None:
    """Replace the state of the rotation."""
    connection.execute(
        "UPDATE authority SET phase = ?, since = ?, active = ?, other = ?",
        (state.phase.value, instant_text(state.since), state.active, state.other),
    )


def read_trust_document(connection: sqlite3.Connection, head: Head) -> TrustDocument:
    """What every node is to believe in this state."""
    with _readable("roots, revocations, federation or aliases"):
        return compose_trust_document(connection, head)


def compose_trust_document(connection: sqlite3.Connection, head: Head) -> TrustDocument:
    """The same while it is being changed: InvalidInput says what cannot go into one."""
    roots = dict(connection.execute("SELECT fingerprint, pem FROM roots").fetchall())
    own = "".join(roots[fingerprint] for fingerprint in head.rotation.trusted())
    federation = connection.execute("SELECT trust_domain, pem FROM federation").fetchall()
    aliases = connection.execute("SELECT trust_domain FROM aliases").fetchall()
    return TrustDocument(
        head.trust_domain,
        tuple(
            TrustBundle.from_pem(TrustDomain(name), pem.encode())
            for name, pem in [(head.trust_domain.name, own), *federation]
        ),
        tuple(TrustDomain(name) for (name,) in aliases),
        RevocationList(read_revocations(connection)),
    )


def read_revocations(connection: sqlite3.Connection) -> tuple[Revocation, ...]:
    """All revocations in force."""
    rows = connection.execute(
        "SELECT kind, value, revoked_at, why FROM revocations ORDER BY value"
    ).fetchall()
    with _readable("revocations"):
        return tuple(
            Revocation(RevocationKind(kind), value, parse_instant(at), why) for kind, value, at, why in rows
        )


def is_revoked(connection: sqlite3.Connection, value: str) -> bool:
    """Say whether an identity, a serial number or a node is revoked."""
    row = connection.execute("SELECT 1 FROM revocations WHERE value = ?", (value,)).fetchone()
    return row is not None


def read_tokens(connection: sqlite3.Connection, token_id: str | None = None) -> tuple[TokenRecord, ...]:
    """All tokens that are kept, oldest first, or the one of an id."""
    rows = connection.execute(
        "SELECT id, secret_hash, node, allowed, created_at, expires_at, used_at FROM tokens "
        "WHERE id = coalesce(?, id) ORDER BY created_at, id",
        (token_id,),
    ).fetchall()
    with _readable("tokens"):
        return tuple(
            TokenRecord(
                row[0],
                row[1],
                row[2],
                parse_patterns(row[3]),
                parse_instant(row[4]),
                parse_instant(row[5]),
                None if row[6] is None else parse_instant(row[6]),
            )
            for row in rows
        )


def read_return_token(connection: sqlite3.Connection, digest: str) -> ReturnRecord | None:
    """What is kept of the return token of this hash, None for none."""
    row = connection.execute(
        "SELECT node, created_at, ended_at, used, successor FROM return_tokens WHERE hash = ?", (digest,)
    ).fetchone()
    if row is None:
        return None
    with _readable("return_tokens"):
        ended_at = None if row[2] is None else parse_instant(row[2])
        return ReturnRecord(row[0], parse_instant(row[1]), ended_at, bool(row[3]), row[4])


def read_nodes(
    connection: sqlite3.Connection, trust_domain: TrustDomain, name: str | None = None
) -> tuple[NodeRecord, ...]:
    """All nodes by name, or the one of a name."""
    rows = connection.execute(
        "SELECT name, allowed, joined_at, report, reported_at FROM nodes WHERE name = coalesce(?, name) ORDER BY name",
        (name,),
    ).fetchall()
    revoked = {value for (value,) in connection.execute("SELECT value FROM revocations WHERE kind = 'node'")}
    with _readable("nodes"):
        return tuple(
            NodeRecord(
                row[0],
                parse_patterns(row[1]),
                parse_instant(row[2]),
                str(NodeId(trust_domain, row[0])) in revoked,
                None if row[3] is None else NodeReport.from_json(row[3]),
                None if row[4] is None else parse_instant(row[4]),
            )
            for row in rows
        )


def patterns_text(patterns: tuple[AllowPattern, ...]) -> str:
    """Patterns as they stand in a row; raises InvalidInput for too many."""
    if len(patterns) > MAX_PATTERNS:
        raise InvalidInput(f"{len(patterns)} patterns for one node, at most {MAX_PATTERNS} are allowed")
    return json.dumps(sorted({str(pattern) for pattern in patterns}))


def parse_patterns(text: str) -> tuple[AllowPattern, ...]:
    """What `patterns_text` wrote."""
    return tuple(AllowPattern.parse(pattern) for pattern in json.loads(text))


@contextmanager
def _readable(table: str) -> Iterator[None]:
    try:
        yield
    except (InvalidInput, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StateError(
            f"the authority's database holds something invalid in {table} ({error}): restore it from a backup"
        ) from None
