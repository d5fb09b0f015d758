"""Pages and watch lines are read strictly, and lines are bounded."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.cluster.cluster import Changed, Kind, Removed
from interceptor.cluster.table import Unreadable
from interceptor.cluster.wire import Bookmark, Failure, LineSplitter, parse_page, parse_watch_line
from interceptor.errors import InvalidInput
from tests.cluster.api_objects import pod


def _page(*items: Any, **metadata: str) -> bytes:
    return json.dumps({"metadata": {"resourceVersion": "7", **metadata}, "items": list(items)}).encode()


def test_page_has_its_objects_and_leads_to_the_next() -> None:
    bad = pod("shop/bad", labels={"app": "x" * 10_000})
    page = parse_page(Kind.POD, _page(pod("shop/web"), bad, **{"continue": "abc"}))
    assert (page.version, page.next_page, len(page.objects)) == (7, "abc", 2)
    assert isinstance(page.objects[1], Unreadable)
    assert parse_page(Kind.POD, _page()).next_page is None
    assert parse_page(Kind.POD, b'{"metadata": {"resourceVersion": "7"}, "items": null}').objects == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the list of pods is not valid JSON"),
        (b"[" * 100_000, "the list of pods is not valid JSON"),
        (b"\xff\xfe", "the list of pods is not valid JSON"),
        (b"[]", "the list of pods is [], expected a JSON object"),
        (b"{}", "the list of pods: metadata has no resourceVersion"),
        (_page({"metadata": {}}), "pod: metadata has no name"),
        (_page(**{"continue": "x" * 8193}), "continue has 8193 characters, at most 8192 are allowed"),
    ],
)
def test_page_that_is_none_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_page(Kind.POD, data)
    assert message in str(caught.value)


def _event(sort: str, value: object) -> bytes:
    return json.dumps({"type": sort, "object": value}).encode()


def test_watch_lines_are_events() -> None:
    web = pod("shop/web", version=9)
    for sort in ("ADDED", "MODIFIED"):
        event = parse_watch_line(Kind.POD, _event(sort, web))
        assert isinstance(event, Changed)
        assert event.object.head.version == 9
    removed = parse_watch_line(Kind.POD, _event("DELETED", web))
    assert isinstance(removed, Removed)
    assert str(removed.head.key) == "shop/web"
    bookmark = _event("BOOKMARK", {"metadata": {"resourceVersion": "12"}})
    assert parse_watch_line(Kind.POD, bookmark) == Bookmark(12)
    gone = _event("ERROR", {"code": 410, "message": "too old"})
    assert parse_watch_line(Kind.POD, gone) == Failure(410, "'too old'")
    assert parse_watch_line(Kind.POD, _event("ERROR", {})) == Failure(500, "''")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "an event of pods is not valid JSON"),
        (_event("EXPLODED", {}), "an event of pods is of the type 'EXPLODED', which is not known"),
        (_event("ERROR", "no"), "the API's status is 'no', expected a JSON object"),
        (_event("ERROR", {"code": 99}), "code is 99, expected a whole number from 100 to 599"),
        (_event("BOOKMARK", None), "an event of pods is None, expected a JSON object"),
        (b'{"object": {}}', "an event of pods has no type"),
    ],
)
def test_watch_line_that_is_no_event_is_refused(line: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_watch_line(Kind.POD, line)
    assert message in str(caught.value)


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line)), st.lists(st.integers(0, 80)))
def test_lines_are_the_same_wherever_the_stream_is_cut(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    splitter = LineSplitter(16)
    found = [line for begin, end in itertools.pairwise(places) for line in splitter.feed(stream[begin:end])]
    assert found == [line for line in lines if line.strip()]


@pytest.mark.parametrize("parts", [[b"x" * 17], [b"x" * 16, b"x"], [b"x" * 17 + b"\n"], [b"a\n" + b"x" * 17]])
def test_line_that_is_too_long_is_refused_before_it_ends(parts: list[bytes]) -> None:
    splitter = LineSplitter(16)
    for part in parts[:-1]:
        assert splitter.feed(part) == []
    with pytest.raises(InvalidInput, match="a line of a watch has more than 16 bytes"):
        splitter.feed(parts[-1])
