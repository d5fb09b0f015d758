"""What the authority's database holds, and how one of an earlier format becomes one of now."""

import sqlite3
from typing import Final

APPLICATION_ID: Final = 0x69415554  # "iAUT": what `file` and we tell the database by
SCHEMA_VERSION: Final = 2
# What the second format has beside the first; the last statement makes it one.
_SECOND: Final = (
    "ALTER TABLE authority ADD COLUMN audit TEXT",  # where the service writes it; NULL: in the directory
    "ALTER TABLE nodes ADD COLUMN may_return INTEGER NOT NULL DEFAULT 1",
    (
        "CREATE TABLE return_tokens (hash TEXT PRIMARY KEY, node TEXT NOT NULL, created_at TEXT NOT NULL,"
        " ended_at TEXT, used INTEGER NOT NULL DEFAULT 0, successor TEXT) STRICT"
    ),
    "CREATE INDEX return_tokens_of_node ON return_tokens (node)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_FIRST: Final = f"""
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE authority (
    id INTEGER PRIMARY KEY CHECK (id = 1), trust_domain TEXT NOT NULL,
    phase TEXT NOT NULL, since TEXT NOT NULL, active TEXT NOT NULL, other TEXT,
    version INTEGER NOT NULL, registry_version INTEGER NOT NULL, issuer_version INTEGER NOT NULL
) STRICT;
CREATE TABLE roots (fingerprint TEXT PRIMARY KEY, pem TEXT NOT NULL) STRICT;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY, secret_hash TEXT NOT NULL, node TEXT NOT NULL, allowed TEXT NOT NULL,
    created_at TEXT NOT NULL, expires_at TEXT NOT NULL, used_at TEXT
) STRICT;
CREATE TABLE nodes (
    name TEXT PRIMARY KEY, allowed TEXT NOT NULL, joined_at TEXT NOT NULL, report BLOB, reported_at TEXT
) STRICT;
CREATE TABLE claims (what TEXT PRIMARY KEY, node TEXT NOT NULL) STRICT;
CREATE TABLE revocations (
    value TEXT PRIMARY KEY, kind TEXT NOT NULL, revoked_at TEXT NOT NULL, why TEXT NOT NULL
) STRICT;
CREATE TABLE federation (trust_domain TEXT PRIMARY KEY, pem TEXT NOT NULL) STRICT;
CREATE TABLE aliases (trust_domain TEXT PRIMARY KEY) STRICT;
"""


def create(connection: sqlite3.Connection) -> None:
    """Put empty tables into a new database."""
    connection.executescript(_FIRST)
    for statement in _SECOND:
        connection.execute(statement)


def upgrade(connection: sqlite3.Connection) -> None:
    """Make a database of the first format one of now, in one transaction; of several who try, the first one does it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 1:
            for statement in _SECOND:
                connection.execute(statement)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
