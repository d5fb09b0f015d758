"""The database: whatever happens to it is one line, and a change is whole or not there."""

import os
import signal
import sqlite3
from contextlib import closing

import pytest

from interceptor.authority.admission import AllowPattern
from interceptor.authority_store import AuthorityStore, database
from interceptor.authority_store.database import Database, new_database
from interceptor.errors import StateError
from interceptor.identity.revocation import RevocationKind
from tests.authority_store.helpers import DOMAIN, NOW, full_disk


@pytest.fixture
def path(home):
    AuthorityStore.create(home, DOMAIN, NOW).close()
    return home / "authority.db"


def changed(path, *statements):
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def refusal(call, *arguments):
    with pytest.raises(StateError) as caught:
        call(*arguments)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_database_of_a_later_format_is_refused(path):
    changed(path, "PRAGMA user_version = 3")
    assert "has the format 3, this version of interceptor reads 2" in refusal(Database.open, path)


FIRST_FORMAT = (
    "ALTER TABLE authority DROP COLUMN audit",
    "ALTER TABLE nodes DROP COLUMN may_return",
    "DROP TABLE return_tokens",
    "PRAGMA user_version = 1",
)


def test_database_of_the_first_format_becomes_one_of_now_with_all_that_is_in_it(path):
    with closing(AuthorityStore.open(path.parent, NOW)) as store:
        store.add_node("a", (AllowPattern("*", "*"),), NOW)
        before = (store.nodes(), store.trust_document(), store.issuer(NOW).intermediate)
    changed(path, *FIRST_FORMAT)
    for _ in range(2):
        with closing(AuthorityStore.open(path.parent, NOW)) as store:
            assert (store.nodes(), store.trust_document(), store.issuer(NOW).intermediate) == before
            assert store.audit_path() is None


def test_database_of_the_first_format_that_cannot_be_written_stays_as_it_was(path):
    changed(path, *FIRST_FORMAT)
    before = path.read_bytes()
    with full_disk():
        assert "the disk" in refusal(Database.open, path)
    assert path.read_bytes() == before
    Database.open(path).close()


def test_database_whose_pages_were_overwritten_is_refused(path):
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * len(data[4096:])
    path.write_bytes(bytes(data))
    assert "corrupt" in refusal(AuthorityStore.open, path.parent, NOW)


def test_database_that_was_cut_off_is_refused(path):
    path.write_bytes(path.read_bytes()[:5000])
    assert "corrupt" in refusal(AuthorityStore.open, path.parent, NOW)


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("DELETE FROM authority", "authority"),
        ("UPDATE authority SET phase = 'mood'", "authority"),
        ("UPDATE authority SET since = 'today'", "authority"),
        ("DELETE FROM roots", "roots"),
        ("UPDATE roots SET pem = 'junk'", "roots"),
        ("INSERT INTO revocations VALUES ('abc', 'mood', 'today', '')", "revocations"),
        (
            "INSERT INTO nodes (name, allowed, joined_at, report, reported_at) VALUES ('a', 'junk', 'today', NULL, NULL)",
            "nodes",
        ),
        ("INSERT INTO tokens VALUES ('a', 'b', 'a', '[1]', 'x', 'y', NULL)", "tokens"),
    ],
)
def test_database_with_a_row_that_makes_no_sense_is_refused(path, statement, table):
    changed(path, statement)

    def read_all():
        with closing(AuthorityStore.open(path.parent, NOW)) as store:
            store.trust_document()
            store.nodes()
            store.tokens()

    assert f"holds something invalid in {table}" in refusal(read_all)


def test_database_that_another_process_keeps_locked_is_told_of(path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with (
        closing(AuthorityStore.open(path.parent, NOW)) as store,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        assert "another process has kept it locked" in refusal(
            store.revoke, RevocationKind.SERIAL, "a", "", NOW
        )
        other.execute("ROLLBACK")
        store.revoke(RevocationKind.SERIAL, "a", "", NOW)


def test_database_on_a_full_disk_can_be_read_and_keeps_what_it_had(path):
    with closing(AuthorityStore.open(path.parent, NOW)) as store:
        store.revoke(RevocationKind.SERIAL, "a", "", NOW)
        with full_disk():
            assert "disk" in refusal(store.revoke, RevocationKind.SERIAL, "b", "", NOW)
            assert [entry.value for entry in store.revocations()] == ["a"]
            with closing(AuthorityStore.open(path.parent, NOW)) as other:
                assert len(other.revocations()) == 1
        store.revoke(RevocationKind.SERIAL, "b", "", NOW)
        assert len(store.revocations()) == 2


def test_database_that_is_gone_is_told_of(path):
    path.unlink()
    assert "cannot be opened" in refusal(Database.open, path)


def test_database_with_another_error_is_told_of(tmp_path):
    path = tmp_path / "other.db"
    path.write_bytes(new_database(iter(())))
    with closing(Database.open(path)) as opened:

        def write():
            with opened.writing() as connection:
                connection.execute("INSERT INTO aliases VALUES ('a'), ('a')")

        assert "the database refused (UNIQUE constraint failed" in refusal(write)


def test_exception_within_a_change_undoes_it(path):
    with closing(Database.open(path)) as opened:

        def change():
            with opened.writing() as connection:
                connection.execute("INSERT INTO aliases VALUES ('a')")
                raise StateError("no")

        refusal(change)
        with opened.reading() as connection:
            assert connection.execute("SELECT count(*) FROM aliases").fetchone() == (0,)


def test_change_keeps_other_writers_out_from_its_beginning(path):
    # What it has read must still be so when it writes: a token is unused, a step is the next one.
    with (
        closing(Database.open(path)) as opened,
        closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other,
    ):
        with opened.writing(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize("rounds", [1, 7, 30])
def test_process_killed_while_it_writes_loses_nothing_that_it_was_told_is_done(path, rounds):
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with closing(AuthorityStore.open(path.parent, None)) as store:
                for number in range(1, 100_000):
                    store.revoke(RevocationKind.SERIAL, f"{number:x}", "", NOW)
                    os.write(sending, b".")
        finally:
            os._exit(1)
    os.close(sending)
    done = 0
    while done < rounds:
        done += len(os.read(receiving, 1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while data := os.read(receiving, 4096):
        done += len(data)
    os.close(receiving)
    with closing(AuthorityStore.open(path.parent, NOW)) as store:
        kept = {int(entry.value, 16) for entry in store.revocations()}
        assert set(range(1, done + 1)) <= kept <= set(range(1, done + 2))
        store.revoke(RevocationKind.SERIAL, "fffff", "", NOW)


def test_commit_outlives_a_power_failure_with_every_sync_that_there_is(path):
    opened = Database.open(path)
    with opened.reading() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    opened.close()
