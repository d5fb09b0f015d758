"""Tables: aligned, never wider than asked for, and one line for each row whatever is in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.cli.table import Column, Table, fit, render, shortened

NAME = Column("NAME", lambda row: str(row["name"]), width=6)
COUNT = Column("COUNT", lambda row: str(row["count"]), is_number=True, width=5)


def test_table_with_numbers_aligns_them_to_the_right() -> None:
    rows = [{"name": "web", "count": 7}, {"name": "database", "count": 12345}]
    assert render([NAME, COUNT], rows) == ["NAME      COUNT", "web           7", "database  12345"]


def test_table_without_known_rows_has_the_widths_of_its_columns() -> None:
    table = Table([NAME, COUNT])
    assert table.heading() == "NAME    COUNT"
    assert table.row({"name": "a-long-name", "count": 1}) == "a-..me      1"


def test_cell_with_control_characters_stays_one_line() -> None:
    assert render([NAME], [{"name": "a\nb\x1b[31m"}]) == ["NAME", "a?b?[31m"]


def test_style_is_applied_to_cells_and_not_to_headings() -> None:
    lines = render([NAME], [{"name": "x"}], style=lambda heading, text: f"<{heading}:{text}>")
    assert lines == ["NAME", "<NAME:x   >"]


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("abc", 3, "abc"),
        ("abcdefghij", 6, "ab..ij"),
        ("abcdefghij", 7, "ab..hij"),
        ("abcdef", 2, ".."),
        ("", 0, ""),
    ],
)
def test_text_too_wide_is_cut_in_the_middle(text: str, width: int, expected: str) -> None:
    assert shortened(text, width) == expected


def test_widest_columns_give_way_first() -> None:
    assert fit([10, 40, 30], 60, 2) == [10, 23, 23]


def test_columns_that_cannot_fit_keep_a_readable_width() -> None:
    assert fit([20, 20, 20], 10, 2) == [8, 8, 8]


@given(st.lists(st.text(max_size=80), min_size=1, max_size=8), st.integers(60, 120))
def test_line_is_never_wider_than_asked_for(cells: list[str], width: int) -> None:
    columns = [Column(f"C{number}", lambda row, number=number: row[number]) for number in range(len(cells))]
    lines = render(columns, [dict(enumerate(cells))], line_width=max(width, 10 * len(cells)))
    assert all(len(line) <= max(width, 10 * len(cells)) for line in lines)
