"""How results reach standard output: as a table for people, as JSON or YAML for programs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click
import yaml

from interceptor.cli.table import LINE_WIDTH, render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from interceptor.cli.table import Column

    F = TypeVar("F", bound=Callable[..., Any])

NARROWEST_TERMINAL = 80  # narrower ones wrap
FORMATS = ("table", "json", "yaml")

_COLOURS = {
    "ready": "green",
    "enrolled": "green",
    "draining": "yellow",
    "waiting": "yellow",
    "valid": "green",
    "ok": "green",
    "permit": "green",
    "starting": "yellow",
    "warning": "yellow",
    "late": "yellow",
    "due": "yellow",
    "degraded": "red",
    "cut_off": "red",
    "refused": "red",
    "pending": "red",
    "missing": "red",
    "expired": "red",
    "not_yet_valid": "red",
    "revoked": "red",
    "failure": "red",
    "denial": "red",
    "no": "red",
}


def output_option(command: F) -> F:
    """The option -o of every command that prints data."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="Format; the keys of json and yaml are stable, and nothing in them is shortened.",
    )(command)


def print_data(data: object, output: str) -> None:
    """Print JSON values as JSON or YAML."""
    click.echo(json_text(data) if output == "json" else yaml_text(data), nl=output == "json")


def json_text(data: object, indent: int | None = 2) -> str:
    """JSON for people's eyes too, in ASCII: it must come through every locale and every pipe; None is one line."""
    return json.dumps(data, indent=indent)


def yaml_text(data: object) -> str:
    """YAML in the order of the keys, ended by a newline."""
    return yaml.safe_dump(data, sort_keys=False, width=1000)


def print_table(columns: Sequence[Column], rows: Sequence[Mapping[str, object]], nothing: str) -> None:
    """Print a table; `nothing` is the line for none at all."""
    if not rows:
        click.echo(nothing)
        return
    for line in render(columns, rows, line_width=line_width(), style=cell_style()):
        click.echo(line)


def line_width() -> int:
    """How wide a table may be: as wide as the terminal, where there is one."""
    return max(shutil.get_terminal_size().columns, NARROWEST_TERMINAL) if sys.stdout.isatty() else LINE_WIDTH


def cell_style() -> Callable[[str, str], str]:
    """How cells are decorated: coloured by their word on a terminal, else not at all."""
    return _coloured if is_colourful() else _plain


def coloured(word: str, text: str | None = None) -> str:
    """`text` (the word itself, if none is given) in the colour of a state's word, if colour is welcome."""
    shown = word if text is None else text
    return click.style(shown, fg=_COLOURS.get(word)) if is_colourful() else shown


def is_colourful() -> bool:
    """Whether colour is welcome: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _plain(_heading: str, text: str) -> str:
    return text


def _coloured(heading: str, text: str) -> str:
    if heading not in ("STATE", "RESULT"):
        return text
    word = text.strip()
    # A denial's cell shows its reason, which is none of the words.
    return click.style(text, fg=_COLOURS.get(word, "red" if heading == "RESULT" and word else None))
