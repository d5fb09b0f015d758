"""Lines are found in rotated files wherever they stand, the newest file first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from interceptor.agent import line_search
from interceptor.agent.line_search import find_lines

if TYPE_CHECKING:
    from pathlib import Path


def line(name: str, number: int, **more: object) -> str:
    return json.dumps({"id": name, "number": number, **more}) + "\n"


def numbers(path: Path, keep: int = 2) -> list[int]:
    return [found["number"] for found in find_lines(path, keep, "id", "one")]


@pytest.mark.parametrize("chunk", [7, 40, 10_000])
def test_lines_are_found_in_every_file_and_across_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(line_search, "_CHUNK", chunk)
    path = tmp_path / "a.jsonl"
    path.write_text(line("one", 1) + line("two", 2) + line("one", 3) + line("one", 4))
    (tmp_path / "a.jsonl.2").write_text(line("two", 5) + line("one", 6))
    (tmp_path / "a.jsonl.3").write_text(line("one", 7))
    assert numbers(path) == [1, 3, 4, 6]


def test_what_only_looks_like_it_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        line("two", 1, note='"id": "one"')
        + line("two", 2, inner={"id": "one"})
        + '{"id": "one"\n["id", {"id": "one"}]\n'
    )
    assert numbers(path) == []
    assert numbers(tmp_path / "none.jsonl") == []
    assert numbers(tmp_path) == []
