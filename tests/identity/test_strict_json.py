"""The reader of documents: everything that is not exactly what was expected is InvalidInput, naming the field."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from interceptor.errors import InvalidInput
from interceptor.identity.strict_json import Fields, canonical, instant_text, parse, parse_instant


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b"[" * 100_000, b"\xff", b"1" * 5000, b'{"a":Infinity}'],
)
def test_text_that_is_no_strict_json_is_refused(data):
    with pytest.raises(InvalidInput, match="thing is not valid JSON"):
        parse("thing", data, 1_000_000)


def test_text_that_is_too_long_is_refused():
    with pytest.raises(InvalidInput, match="thing has 3 bytes, at most 2 are allowed"):
        parse("thing", b"{} ", 2)


def test_canonical_has_one_spelling():
    assert canonical({"b": [1, "é"], "a": None}) == b'{"a":null,"b":[1,"\\u00e9"]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})


def test_instant_round_trips_with_microseconds_in_utc():
    instant = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    assert instant_text(instant) == "2026-01-02T03:04:05.000678Z"
    assert parse_instant(instant_text(instant)) == instant
    assert instant_text(instant.astimezone(timezone(timedelta(hours=5)))) == instant_text(instant)


@pytest.mark.parametrize(
    "text", ["", "now", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.1Z", "2026-13-02T03:04:05.000000Z"]
)
def test_instant_in_another_spelling_is_refused(text):
    with pytest.raises(InvalidInput, match="is not a time"):
        parse_instant(text)


def test_object_with_unknown_or_missing_fields_is_refused():
    with pytest.raises(InvalidInput, match="thing is not a JSON object"):
        Fields("thing", [], "a")
    with pytest.raises(InvalidInput, match="thing has the unknown field 'b'"):
        Fields("thing", {"a": 1, "b": 2}, "a")
    with pytest.raises(InvalidInput, match="thing lacks the field b"):
        Fields("thing", {"a": 1}, "a", "b")


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda fields: fields.text("a", 3), 1),
        (lambda fields: fields.text("a", 3), "four"),
        (lambda fields: fields.number("a", 0, 9), "1"),
        (lambda fields: fields.number("a", 0, 9), True),
        (lambda fields: fields.number("a", 0, 9), 10),
        (lambda fields: fields.number("a", 0, 9), -1),
        (lambda fields: fields.array("a", 1), {}),
        (lambda fields: fields.array("a", 1), [1, 2]),
        (lambda fields: fields.texts("a", 2, 3), ["a", 1]),
        (lambda fields: fields.texts("a", 2, 3), ["four"]),
        (lambda fields: fields.mapping("a", 1, 3), []),
        (lambda fields: fields.mapping("a", 1, 3), {"a": "b", "c": "d"}),
        (lambda fields: fields.mapping("a", 1, 3), {"a": 1}),
        (lambda fields: fields.mapping("a", 1, 3), {"four": "more"}),
    ],
)
def test_field_of_another_kind_or_size_is_refused(read, value):
    with pytest.raises(InvalidInput, match=r"^thing: a is .*, expected "):
        read(Fields("thing", {"a": value}, "a"))


def test_secret_field_is_in_no_message():
    with pytest.raises(InvalidInput) as caught:
        Fields("thing", {"a": "hidden"}, "a").secret("a", 3)
    assert str(caught.value) == "thing: a is no text of at most 3 characters"


def test_fields_of_the_right_kind_are_returned():
    values = {
        "t": "x",
        "n": 3,
        "l": [1],
        "s": ["x"],
        "m": {"k": "v"},
        "i": "2026-01-02T03:04:05.000000Z",
        "v": None,
    }
    fields = Fields("thing", values, *values)
    assert (fields.text("t", 1), fields.secret("t", 1), fields.number("n", 3, 3)) == ("x", "x", 3)
    assert (fields.array("l", 1), fields.texts("s", 1, 1), fields.mapping("m", 1, 1)) == (
        [1],
        ("x",),
        {"k": "v"},
    )
    assert fields.instant("i") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert fields.value("v") is None
