"""Tables for people: aligned columns that fit the line, wide cells shortened in the middle.  Pure text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LINE_WIDTH = 109  # of a table that is not shown on a terminal
_GAP = "  "
_CUT = ".."  # ASCII: it must come through every locale and every pipe
_NARROWEST = 8


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its heading, and what is shown of a row; `width` is its width where the rows are not known yet."""

    heading: str
    show: Callable[[Mapping[str, object]], str]
    is_number: bool = False
    width: int = 0

    def cell(self, row: Mapping[str, object]) -> str:
        """One line of text, whatever the row holds."""
        return "".join(character if character.isprintable() else "?" for character in self.show(row))


class Table:
    """A layout for rows: widths are fixed when it is made, so that rows can be added to a table already shown."""

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Sequence[Mapping[str, object]] = (),
        *,
        line_width: int = LINE_WIDTH,
        style: Callable[[str, str], str] = lambda _, text: text,
    ) -> None:
        """`rows` are those that will be shown, as far as they are known already.

        `style` decorates a padded cell, given its heading; it must not change its visible width.
        """
        self._columns = columns
        self._style = style
        needed = [
            max(len(column.heading), *(len(column.cell(row)) for row in rows)) if rows else column.width
            for column in columns
        ]
        self._widths = fit(needed, line_width, len(_GAP))

    def heading(self) -> str:
        """The line above the rows."""
        return self._line([column.heading for column in self._columns])

    def row(self, row: Mapping[str, object]) -> str:
        """One row, each cell shortened to its column's width."""
        return self._line([column.cell(row) for column in self._columns], style=self._style)

    def _line(self, cells: Sequence[str], style: Callable[[str, str], str] | None = None) -> str:
        padded = []
        for column, width, cell in zip(self._columns, self._widths, cells, strict=True):
            text = shortened(cell, width)
            text = text.rjust(width) if column.is_number else text.ljust(width)
            padded.append(style(column.heading, text) if style else text)
        return _GAP.join(padded).rstrip()


def fit(widths: Sequence[int], line_width: int, gap: int) -> list[int]:
    """Narrow the widest columns, one character after the other, until a line fits."""
    fitted = list(widths)
    while sum(fitted) + gap * (len(fitted) - 1) > line_width:
        widest = max(range(len(fitted)), key=fitted.__getitem__)
        if fitted[widest] <= _NARROWEST:
            break
        fitted[widest] -= 1
    return fitted


def shortened(text: str, width: int) -> str:
    """Text of at most `width` characters: what is cut out is in the middle, for names differ at their ends."""
    if len(text) <= width:
        return text
    kept = max(width - len(_CUT), 0)
    return text[: kept // 2] + _CUT + text[len(text) - (kept - kept // 2) :]


def render(
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, object]],
    *,
    line_width: int = LINE_WIDTH,
    style: Callable[[str, str], str] = lambda _, text: text,
) -> list[str]:
    """A whole table as lines, the heading first."""
    table = Table(columns, rows, line_width=line_width, style=style)
    return [table.heading(), *map(table.row, rows)]
