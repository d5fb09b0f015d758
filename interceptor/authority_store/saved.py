"""An authority as a few files, to be kept elsewhere: what cannot be found out again, and nothing else.

`state.json` says what nodes are to believe and where a rotation is; the others are the issuers' keys and certificates,
`<issuer>.<file>`, as they are on disk. Not saved are nodes, tokens and reports: where an authority is kept elsewhere,
nodes prove themselves otherwise, and report again.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from interceptor.authority.rotation import Phase, RotationState
from interceptor.authority_store.base import StoreBase
from interceptor.authority_store.issuer_files import (
    INTERMEDIATE_CERTIFICATE,
    INTERMEDIATE_KEY,
    ROOT_CERTIFICATE,
    ROOT_KEY,
)
from interceptor.authority_store.private_directory import MAX_FILE_BYTES
from interceptor.authority_store.registry_rows import raise_registry_version
from interceptor.authority_store.rows import (
    Head,
    read_head,
    read_revocations,
    read_trust_document,
    write_rotation,
)
from interceptor.errors import InvalidInput, StateError
from interceptor.identity.spiffe_id import MAX_TRUST_DOMAIN_BYTES, TrustDomain
from interceptor.identity.strict_json import Fields, canonical, instant_text, parse
from interceptor.identity.trust_document import MAX_TRUST_DOCUMENT_BYTES

STATE: Final = "state.json"
Saved = Mapping[str, bytes]
Rows = Iterator[tuple[str, tuple[str, ...]]]

_WHAT: Final = "saved authority"
_FILE = re.compile(
    rf"([0-9a-f]{{16}})\.({'|'.join(map(re.escape, (ROOT_KEY, ROOT_CERTIFICATE, INTERMEDIATE_KEY, INTERMEDIATE_CERTIFICATE)))})"
)
_NEEDED: Final = (ROOT_CERTIFICATE, INTERMEDIATE_KEY, INTERMEDIATE_CERTIFICATE)
_HEX = re.compile(r"[0-9a-f]{64}")
_MOST: Final = 100_000  # entries of a list; the bytes end earlier


@dataclass(frozen=True, slots=True)
class _State:
    trust_domain: TrustDomain
    rotation: RotationState


class Saving(StoreBase):
    """To files, and to another state of the same authority."""

    def saved(self) -> dict[str, bytes]:
        """The authority as it stands now."""
        with self.database.reading() as connection:
            files = {
                f"{issuer}.{name}": content
                for issuer, named in self.issuers.files().items()
                for name, content in named.items()
            }
            return {STATE: _state_text(connection, read_head(connection)), **files}

    def adopt(self, saved: Saved) -> None:
        """Become what is saved; raises StateError, with nothing changed, for what is no state of this authority."""
        with _readable():
            state, rows = _parse_state(saved)
            if state.trust_domain != self.trust_domain:
                raise InvalidInput(f"it is that of trust domain {state.trust_domain}")
        with self.database.writing() as connection:
            for issuer, files in issuers_of(saved).items():
                self.issuers.put(issuer, files)
            write_rotation(connection, state.rotation)
            for table in ("roots", "revocations", "federation", "aliases"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 -- the names above
            for statement, values in rows:
                connection.execute(statement, values)
            connection.execute("UPDATE authority SET issuer_version = issuer_version + 1")
            raise_registry_version(connection)
            read_trust_document(connection, read_head(connection))  # can be read, or is not adopted
        with self.database.writing() as connection:
            self.issuers.discard_all_but(read_head(connection).rotation)


def first_rows(saved: Saved) -> Rows:
    """What makes a new database hold a saved authority; raises StateError."""
    with _readable():
        state, rows = _parse_state(saved)
    rotation = state.rotation
    yield (
        (
            "INSERT INTO authority (id, trust_domain, phase, since, active, other, version, registry_version, "
            "issuer_version) VALUES (1, ?, ?, ?, ?, nullif(?, ''), 1, 1, 1)"
        ),
        (
            state.trust_domain.name,
            rotation.phase.value,
            instant_text(rotation.since),
            rotation.active,
            rotation.other or "",
        ),
    )
    yield from rows


def issuers_of(saved: Saved) -> dict[str, dict[str, bytes]]:
    """The files of each issuer; raises StateError for what is none, and for an issuer that is not whole."""
    found: dict[str, dict[str, bytes]] = {}
    for name, content in saved.items():
        if name == STATE:
            continue
        parts = _FILE.fullmatch(name)
        if parts is None or len(content) > MAX_FILE_BYTES:
            raise _unusable(f"{name[:100]!r} is none of its files")
        found.setdefault(parts[1], {})[parts[2]] = content
    for issuer, files in found.items():
        if missing := [f"{issuer}.{name}" for name in _NEEDED if name not in files]:
            raise _unusable(f"it lacks {', '.join(missing)}")
    return found


def without_root_keys(saved: Saved) -> dict[str, bytes]:
    """What is enough to issue; nothing that would let anybody make another issuer."""
    return {name: content for name, content in saved.items() if not name.endswith(f".{ROOT_KEY}")}


def _state_text(connection: sqlite3.Connection, head: Head) -> bytes:
    rotation = head.rotation
    return canonical(
        {
            "trust_domain": head.trust_domain.name,
            "phase": rotation.phase.value,
            "since": instant_text(rotation.since),
            "active": rotation.active,
            "other": rotation.other,
            "roots": dict(connection.execute("SELECT fingerprint, pem FROM roots").fetchall()),
            "revocations": [
                [each.kind.value, each.value, instant_text(each.revoked_at), each.why]
                for each in read_revocations(connection)
            ],
            "federation": dict(connection.execute("SELECT trust_domain, pem FROM federation").fetchall()),
            "aliases": [
                name
                for (name,) in connection.execute("SELECT trust_domain FROM aliases ORDER BY 1").fetchall()
            ],
        }
    )


def _parse_state(saved: Saved) -> tuple[_State, Rows]:
    """Where the authority stands, and the rows of what it believes, which are not looked at yet; InvalidInput."""
    fields = Fields(
        _WHAT,
        parse(_WHAT, saved.get(STATE, b""), MAX_TRUST_DOCUMENT_BYTES),
        *(
            "trust_domain",
            "phase",
            "since",
            "active",
            "other",
            "roots",
            "revocations",
            "federation",
            "aliases",
        ),
    )
    other = None if fields.value("other") is None else fields.text("other", 64)
    rotation = RotationState(
        Phase(fields.text("phase", 20)), fields.instant("since"), fields.text("active", 64), other
    )
    for named in filter(None, (rotation.active, other)):
        if not _HEX.fullmatch(named):
            raise InvalidInput(f"{_WHAT}: {named!r} is no fingerprint")
    domain = TrustDomain(fields.text("trust_domain", MAX_TRUST_DOMAIN_BYTES))
    return _State(domain, rotation), iter(_rows(fields))


def _rows(fields: Fields) -> list[tuple[str, tuple[str, ...]]]:
    rows: list[tuple[str, tuple[str, ...]]] = [
        ("INSERT INTO roots (fingerprint, pem) VALUES (?, ?)", item)
        for item in fields.mapping("roots", 2, MAX_FILE_BYTES).items()
    ]
    rows += [
        ("INSERT INTO federation (trust_domain, pem) VALUES (?, ?)", item)
        for item in fields.mapping("federation", _MOST, MAX_TRUST_DOCUMENT_BYTES).items()
    ]
    rows += [
        ("INSERT INTO aliases (trust_domain) VALUES (?)", (name,))
        for name in fields.texts("aliases", _MOST, MAX_TRUST_DOMAIN_BYTES)
    ]
    for entry in fields.array("revocations", _MOST):
        if not isinstance(entry, list) or len(entry) != 4 or not all(isinstance(each, str) for each in entry):
            raise InvalidInput(f"{_WHAT}: a revocation is not kind, value, time and reason")
        rows.append(
            ("INSERT INTO revocations (kind, value, revoked_at, why) VALUES (?, ?, ?, ?)", tuple(entry))
        )
    return rows


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (InvalidInput, ValueError) as error:
        raise _unusable(str(error)) from None


def _unusable(why: str) -> StateError:
    return StateError(f"the saved authority cannot be used ({why}): restore it from a backup")
