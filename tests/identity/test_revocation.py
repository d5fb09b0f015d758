"""Revocations: what they can name, and that they are found."""

from dataclasses import replace

import pytest

from interceptor.errors import InvalidInput
from interceptor.identity import revocation
from interceptor.identity.revocation import (
    Revocation,
    RevocationKind,
    RevocationList,
    require_whole,
    revocation_target,
)

WEB = "spiffe://cluster.local/ns/default/sa/web"


@pytest.fixture
def entry(now):
    return Revocation(RevocationKind.IDENTITY, WEB, now, "stolen")


def test_revocation_written_and_read_is_the_same(entry):
    assert Revocation.from_document(dict(entry.to_document())) == entry


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (RevocationKind.IDENTITY, "spiffe://cluster.local/node/a"),
        (RevocationKind.IDENTITY, "web"),
        (RevocationKind.NODE, WEB),
        (RevocationKind.SERIAL, WEB),
        (RevocationKind.SERIAL, "0a"),
        (RevocationKind.SERIAL, "AB"),
        (RevocationKind.SERIAL, ""),
        (RevocationKind.SERIAL, "a" * 41),
    ],
)
def test_revocation_of_another_kind_than_its_value_is_refused(kind, value, now):
    with pytest.raises(InvalidInput):
        Revocation(kind, value, now, "")


@pytest.mark.parametrize("why", ["two\nlines", "x" * 201])
def test_revocation_whose_reason_is_no_line_is_refused(entry, why):
    with pytest.raises(InvalidInput, match="is not one line"):
        replace(entry, why=why)


def test_revocation_of_an_unknown_kind_is_refused(entry):
    with pytest.raises(InvalidInput, match="unknown kind 'mood'"):
        Revocation.from_document({**entry.to_document(), "kind": "mood"})


def test_list_finds_identity_node_and_serial_and_nothing_else(entry, now):
    node = Revocation(RevocationKind.NODE, "spiffe://cluster.local/node/a", now, "")
    serial = Revocation(RevocationKind.SERIAL, "abc", now, "")
    entries = RevocationList((entry, node, serial))
    assert entries.find(WEB, ()) is entry
    assert entries.find("spiffe://cluster.local/node/a", ["1"]) is node
    assert entries.find(f"{WEB}2", ["1", "abc"]) is serial
    assert entries.find(f"{WEB}2", ["1", "abcd"]) is None
    assert RevocationList.empty().find(WEB, ["abc"]) is None


def test_list_in_another_order_is_equal(entry, now):
    serial = Revocation(RevocationKind.SERIAL, "abc", now, "")
    assert RevocationList((entry, serial)) == RevocationList((serial, entry))


def test_list_with_something_twice_is_refused(entry):
    with pytest.raises(InvalidInput, match="twice"):
        RevocationList((entry, replace(entry, why="again")))


def test_list_that_is_too_long_is_refused(entry, monkeypatch):
    monkeypatch.setattr(revocation, "MAX_REVOCATIONS", 0)
    with pytest.raises(InvalidInput, match="at most 0 are allowed"):
        RevocationList((entry,))


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        (WEB, RevocationKind.IDENTITY, WEB),
        ("spiffe://node/ns/node/sa/web", RevocationKind.IDENTITY, "spiffe://node/ns/node/sa/web"),
        ("spiffe://td/node/a", RevocationKind.NODE, "spiffe://td/node/a"),
        ("5f3a", RevocationKind.SERIAL, "5f3a"),
        ("0A:1B", RevocationKind.SERIAL, "a1b"),
    ],
)
def test_target_of_a_revocation_is_told_by_its_form(text, kind, value):
    assert revocation_target(text) == (kind, value)


@pytest.mark.parametrize("text", ["", "0", "web", "0x5f", "f" * 41, "node-b"])
def test_target_that_is_neither_id_nor_serial_is_refused(text):
    with pytest.raises(InvalidInput, match="is neither a SPIFFE ID nor a serial number"):
        revocation_target(text)


@pytest.mark.parametrize("value", ["25ed5203", "f" * 15])
def test_serial_number_that_is_cut_short_is_not_whole(value):
    with pytest.raises(InvalidInput, match=f"{value} is only the end of a serial number"):
        require_whole(RevocationKind.SERIAL, value)


def test_whole_serial_number_and_identity_are_whole():
    require_whole(RevocationKind.SERIAL, "f" * 16)
    require_whole(RevocationKind.IDENTITY, "x")
    require_whole(RevocationKind.NODE, "x")
