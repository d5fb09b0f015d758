"""The only sqlite3: open the authority's database, run transactions, and say in one line what went wrong.

A rollback journal and every sync that there is (EXTRA: the directory's too, once the journal is gone): a change outlives
a power failure as soon as its transaction has ended, and on a full disk everything can still be read. Several processes may have it open.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from interceptor.authority_store import schema
from interceptor.errors import StateError

DATABASE: Final = "authority.db"
BUSY_SECONDS: Final = 5.0  # no transaction of ours takes so long
_FIRST_FORMAT: Final = 1


def new_database(statements: Iterator[tuple[str, tuple[str, ...]]]) -> bytes:
    """The content of a new database file, with the schema and what the statements put there.

    Raises StateError for what contradicts itself.
    """
    connection = sqlite3.connect(":memory:")
    try:
        schema.create(connection)
        for statement, values in statements:
            connection.execute(statement, values)
        connection.commit()
        return connection.serialize()
    except sqlite3.IntegrityError as error:
        raise StateError(f"the authority contradicts itself ({error}): restore it from a backup") from None
    finally:
        connection.close()


class Database:
    """One connection behind one lock, so that any thread may use it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a database that exists; StateError says what is wrong with it."""
        with _translated(path):
            connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=rw",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("PRAGMA synchronous = EXTRA")
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA secure_delete = ON")
                _check(path, connection)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        """Let go of the file; the database cannot be used any more."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Several reads of one state."""
        with self._transaction("BEGIN", "ROLLBACK") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A change that is made whole at the end of the block, or, upon any exception in it, not at all.

        No other process writes meanwhile, so the block may change the issuers' files too.
        """
        with self._transaction("BEGIN IMMEDIATE", "COMMIT") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str, end: str) -> Iterator[sqlite3.Connection]:
        with self._lock, _translated(self._path):
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute(end)
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")


def _check(path: Path, connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != schema.APPLICATION_ID:
        raise StateError(f"{path} is not the database of an authority: restore it from a backup")
    if version not in (_FIRST_FORMAT, schema.SCHEMA_VERSION):
        raise StateError(
            f"{path} has the format {version}, this version of interceptor reads {schema.SCHEMA_VERSION}: use the "
            "version that wrote it"
        )
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise StateError(f"{path} is corrupt ({' '.join(str(found).split())}): restore it from a backup")
    if version == _FIRST_FORMAT:
        schema.upgrade(connection)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or type(error).__name__
        raise StateError(f"{path}: {_explained(name)} ({error})") from None


def _explained(name: str) -> str:
    for prefix, explanation in (
        ("SQLITE_FULL", "the disk is full: make space, then repeat"),
        ("SQLITE_CORRUPT", "the database is corrupt: restore it from a backup"),
        ("SQLITE_NOTADB", "the file is no database: restore it from a backup"),
        ("SQLITE_BUSY", f"another process has kept it locked for {BUSY_SECONDS:g} s: end it, then repeat"),
        ("SQLITE_READONLY", "it cannot be written: check permissions and mount options there"),
        ("SQLITE_CANTOPEN", "it cannot be opened: check that it is there, and permissions"),
        ("SQLITE_IOERR", "the disk refused: check disk space, its health and permissions"),
    ):
        if name.startswith(prefix):
            return explanation
    return "the database refused"
