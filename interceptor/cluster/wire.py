"""What the API sends: pages of a list, and the lines of a watch ("Kubernetes API Concepts")."""

import json
from dataclasses import dataclass
from typing import Final

from interceptor.cluster.cluster import AnyObject, Changed, Kind, Removed, parse_object
from interceptor.cluster.fields import Fields
from interceptor.cluster.head import parse_head, parse_version
from interceptor.cluster.table import Unreadable
from interceptor.errors import InvalidInput, quoted

MAX_LINE_BYTES: Final = 4 * 1024 * 1024  # an object has at most 1.5 MiB in etcd, and JSON may be longer
MAX_PAGE_OBJECTS: Final = 10_000
MAX_TOKEN: Final = 8192
MAX_MESSAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list; `next_page` is the token for the next one, None for the last."""

    version: int
    next_page: str | None
    objects: tuple[AnyObject | Unreadable, ...]


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Everything up to this version was sent."""

    version: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The server ends the watch; `code` is as of HTTP, 410 for a version that it no longer has."""

    code: int
    message: str


def parse_page(kind: Kind, data: bytes) -> Page:
    """Raises InvalidInput for what is no list."""
    fields = Fields(f"the list of {kind}", parse_json(f"the list of {kind}", data))
    metadata = fields.part("metadata")
    objects = fields.objects("items", MAX_PAGE_OBJECTS)
    return Page(
        parse_version(metadata.text("resourceVersion")),
        metadata.optional_text("continue", MAX_TOKEN) or None,
        tuple(parse_object(kind, value) for value in objects),
    )


def parse_watch_line(kind: Kind, line: bytes) -> Changed | Removed | Bookmark | Failure:
    """Raises InvalidInput for what cannot be relied on."""
    what = f"an event of {kind}"
    fields = Fields(what, parse_json(what, line))
    sort, value = fields.text("type"), fields.any("object")
    match sort:
        case "ADDED" | "MODIFIED":
            return Changed(kind, parse_object(kind, value))
        case "DELETED":
            return Removed(kind, parse_head(kind, value))
        case "BOOKMARK":
            return Bookmark(parse_version(Fields(what, value).part("metadata").text("resourceVersion")))
        case "ERROR":
            return parse_status(value)
        case _:
            raise InvalidInput(f"{what} is of the type {quoted(sort)}, which is not known")


def parse_status(value: object) -> Failure:
    """The `Status` with which the API says no; raises InvalidInput for anything else."""
    fields = Fields("the API's status", value)
    return Failure(
        fields.number("code", 100, 599) or 500, quoted(fields.optional_text("message", MAX_MESSAGE) or "")
    )


def parse_json(what: str, data: bytes) -> object:
    """Bytes to the value that they spell; raises InvalidInput."""
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{what} is not valid JSON") from None
    return value


class LineSplitter:
    """Takes a stream of bytes apart into lines of bounded length."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._pending = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end in `data`, without their ends; raises InvalidInput for one that is too long."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._parts, lines[0]))
            self._parts, self._pending = [], 0
        self._parts.append(rest)
        self._pending += len(rest)
        if max(self._pending, *map(len, lines), 0) > self._limit:
            raise InvalidInput(f"a line of a watch has more than {self._limit} bytes")
        return [line for line in lines if line.strip()]
