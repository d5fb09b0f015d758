"""What a panel of the dashboard is, before it is a model of Grafana's."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["stat", "timeseries", "table"]


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and how each of its series is called: `{{label}}` is the value of one of its labels."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: sizes in Grafana's grid of 24 columns; `thresholds` are values with the colour from there on."""

    title: str
    description: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    thresholds: tuple[tuple[float, str], ...] = ()
    base_colour: str = "green"


@dataclass(frozen=True, slots=True)
class Row:
    """Panels with a heading."""

    title: str
    panels: tuple[Panel, ...]
