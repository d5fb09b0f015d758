"""Parts of policy files to documents: here when they are few, in processes of their own when they are many.

Ten thousand policies take four seconds of a processor. In a thread of the agent all of that would be taken from traffic,
which then waits for the interpreter's lock, and a second processor would be idle.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import IO, TYPE_CHECKING, Any

from interceptor.errors import PolicyError
from interceptor.labels import Labels
from interceptor.policy import documents
from interceptor.policy.matching import Attribute, Pattern, Projection
from interceptor.policy.packed_rules import PackedRules, pack
from interceptor.policy.parse import parse_part
from interceptor.policy.peer_authentication import MtlsMode
from interceptor.workload import Direction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interceptor.policy.mesh_names import MeshNames
    from interceptor.strict_yaml import Part

FEW_CHARACTERS = 256 * 1024  # a tenth of a second
MOST_PROCESSES = 4
DEADLINE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Parsed:
    """The documents of a part, or what is wrong with it."""

    documents: tuple[documents.Document, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NamedPart:
    """A part of a file, and what the file is called in messages."""

    file: str
    part: Part


@dataclass(frozen=True, slots=True)
class Work:
    """What one process is given."""

    parts: tuple[NamedPart, ...]
    mesh: MeshNames


# Whatever a process answers, these are made of it and nothing else.
_ALLOWED = {
    (each.__module__, each.__qualname__): each
    for each in (
        documents.Action, documents.AuthorizationPolicy, documents.EgressPolicy, documents.FieldMatch, documents.Head,
        documents.Kind, documents.LegacyException, documents.PeerAuthentication, documents.Place, documents.PolicyName,
        documents.Rule, Parsed, Attribute, Direction, Labels, MtlsMode, PackedRules, Pattern, Projection,
        datetime, timedelta, timezone,
    )
}  # fmt: skip


def parse_parts(parts: Sequence[NamedPart], mesh: MeshNames) -> list[Parsed]:
    """The documents of each part, or what is wrong with it; PolicyError when that could not be found out."""
    if sum(len(each.part.text) for each in parts) <= FEW_CHARACTERS:
        return [_parsed(each, mesh) for each in parts]
    shares = _shares(parts, min(MOST_PROCESSES, len(os.sched_getaffinity(0))))
    with ThreadPoolExecutor(len(shares)) as threads:
        return [
            found for share in threads.map(_parse_elsewhere, shares, [mesh] * len(shares)) for found in share
        ]


def parse_packed(parts: Sequence[NamedPart], mesh: MeshNames) -> list[Parsed]:
    """The same for many, in a process of their own: with rules packed, and filed by what all of them have."""
    parsed = [_parsed(each, mesh) for each in parts]
    packed = iter(pack(document for found in parsed for document in found.documents))
    return [Parsed(tuple(next(packed) for _ in found.documents), found.problems) for found in parsed]


def _parsed(named: NamedPart, mesh: MeshNames) -> Parsed:
    try:
        return Parsed(parse_part(named.file, named.part, mesh))
    except PolicyError as error:
        return Parsed(problems=error.problems)


def _shares(parts: Sequence[NamedPart], count: int) -> list[Sequence[NamedPart]]:
    """The parts in their order, cut into about equal work."""
    most = sum(len(each.part.text) for each in parts) / count
    shares: list[list[NamedPart]] = [[]]
    size = 0
    for each in parts:
        if size >= most and len(shares) < count:
            shares.append([])
            size = 0
        shares[-1].append(each)
        size += len(each.part.text)
    return list(shares)


def _parse_elsewhere(parts: Sequence[NamedPart], mesh: MeshNames) -> list[Parsed]:
    work = pickle.dumps(Work(tuple(parts), mesh), pickle.HIGHEST_PROTOCOL)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "interceptor.agent.parse_process"],
            input=work,
            stdout=subprocess.PIPE,
            cwd="/",
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PolicyError(f"the policies were not parsed within {DEADLINE_SECONDS:g} seconds") from None
    except OSError:
        return [_parsed(each, mesh) for each in parts]  # no process is to be had: slow is better than not
    if done.returncode != 0:
        raise PolicyError(
            f"the process that parses policies ended with status {done.returncode}, see the log"
        )
    found: list[Parsed] = _Documents(io.BytesIO(done.stdout)).load()
    return found


def dump(parsed: list[Parsed], file: IO[bytes]) -> None:
    """Write what `_Documents` reads: a word of an enumeration by its value, or it would be asked for by `getattr`."""
    pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = {each: _by_value for each in _ALLOWED.values() if issubclass(each, Enum)}
    pickler.dump(parsed)


def _by_value(word: Enum) -> tuple[type[Enum], tuple[object]]:
    return type(word), (word.value,)


class _Documents(pickle.Unpickler):
    """Makes documents, and nothing else: a process that parses what others wrote is believed no more than that."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - any of the classes
        found = _ALLOWED.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a document")
        return found
