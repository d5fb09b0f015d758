"""What is no longer believed although its certificate is still valid."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self

from interceptor.errors import InvalidInput, quoted
from interceptor.identity.node_id import NodeId
from interceptor.identity.spiffe_id import NODE, SCHEME, SpiffeId
from interceptor.identity.strict_json import Fields, Json, instant_text

MAX_REVOCATIONS: Final = 10_000
MAX_WHY: Final = 200  # characters
_MAX_VALUE: Final = 2048
_MIN_SERIAL_DIGITS: Final = 16  # 64 random bits (CA/Browser Forum, 7.1); ours have 159
_SERIAL = re.compile(r"[1-9a-f][0-9a-f]{0,39}")  # RFC 5280, 4.1.2.2: at most 20 octets


class RevocationKind(StrEnum):
    """What a revocation names."""

    IDENTITY = "identity"
    SERIAL = "serial"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Revocation:
    """One workload's identity, one certificate (of a workload, node or intermediate), or one node; always valid.

    `value` is the SPIFFE ID as text, or the serial number in lower-case hexadecimal.
    """

    kind: RevocationKind
    value: str
    revoked_at: datetime
    why: str

    def __post_init__(self) -> None:
        """Raise InvalidInput for a value that is not of its kind, and a reason that is no single line."""
        if self.kind is RevocationKind.IDENTITY:
            SpiffeId.parse(self.value)
        elif self.kind is RevocationKind.NODE:
            NodeId.parse(self.value)
        elif not _SERIAL.fullmatch(self.value):
            raise InvalidInput(f"{quoted(self.value)} is not a serial number in lower-case hexadecimal")
        if len(self.why) > MAX_WHY or not self.why.isprintable():
            raise InvalidInput(f"reason {quoted(self.why)} is not one line of at most {MAX_WHY} characters")

    def to_document(self) -> Json:
        return {
            "kind": self.kind.value,
            "revoked_at": instant_text(self.revoked_at),
            "value": self.value,
            "why": self.why,
        }

    @classmethod
    def from_document(cls, value: object) -> Self:
        """Read what `to_document` made; raises InvalidInput."""
        fields = Fields("revocation", value, "kind", "revoked_at", "value", "why")
        kind = fields.text("kind", MAX_WHY)
        if kind not in list(RevocationKind):
            raise InvalidInput(f"revocation is of the unknown kind {quoted(kind)}")
        return cls(
            RevocationKind(kind),
            fields.text("value", _MAX_VALUE),
            fields.instant("revoked_at"),
            fields.text("why", MAX_WHY),
        )


def revocation_target(text: str) -> tuple[RevocationKind, str]:
    """What a person means: a workload's or node's SPIFFE ID, or a serial number as tools show it (`0A:1B`).

    Raises InvalidInput.
    """
    if text.startswith(SCHEME):
        is_node = text.removeprefix(SCHEME).partition("/")[2].startswith(f"{NODE}/")
        return (RevocationKind.NODE if is_node else RevocationKind.IDENTITY), text
    serial = text.replace(":", "").lower().lstrip("0")
    if not _SERIAL.fullmatch(serial):
        raise InvalidInput(f"{quoted(text)} is neither a SPIFFE ID nor a serial number in hexadecimal")
    return RevocationKind.SERIAL, serial


def require_whole(kind: RevocationKind, value: str) -> None:
    """Raise InvalidInput for a serial number cut short, as tables show it: it would revoke nothing, or a stranger."""
    if kind is RevocationKind.SERIAL and len(value) < _MIN_SERIAL_DIGITS:
        raise InvalidInput(
            f"{value} is only the end of a serial number, nothing would be revoked: 'interceptor certificates -o json' "
            "and audit.jsonl of the authority show the whole"
        )


@dataclass(frozen=True, slots=True)
class RevocationList:
    """All revocations in force; the order says nothing."""

    entries: tuple[Revocation, ...]
    _by_value: Mapping[str, Revocation] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Sort; raise InvalidInput for more than MAX_REVOCATIONS entries, or two for one value."""
        if len(self.entries) > MAX_REVOCATIONS:
            raise InvalidInput(f"{len(self.entries)} revocations, at most {MAX_REVOCATIONS} are allowed")
        by_value = {entry.value: entry for entry in self.entries}
        if len(by_value) != len(self.entries):
            raise InvalidInput("revocation list names something twice")
        object.__setattr__(self, "entries", tuple(by_value[value] for value in sorted(by_value)))
        object.__setattr__(self, "_by_value", MappingProxyType(by_value))

    @classmethod
    def empty(cls) -> Self:
        return cls(())

    def find(self, spiffe_id_text: str, serials: Iterable[str]) -> Revocation | None:
        """Return why this identity, or a certificate with one of these serial numbers, is not to be believed."""
        for value in (spiffe_id_text, *serials):
            if (entry := self._by_value.get(value)) is not None:
                return entry
        return None
