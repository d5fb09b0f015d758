"""The Grafana dashboard: which panels there are, and the JSON model that Grafana imports.

Source: grafana.com, "Dashboard JSON model"; the version of the schema is that of Grafana 9, which newer ones migrate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from interceptor.telemetry.grafana_panels import ROWS
from interceptor.telemetry.panel import Panel, Query

SCHEMA_VERSION: Final = 37
GRID_COLUMNS: Final = 24
UID: Final = "interceptor-mesh"
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """The model as JSON values; the data source, nodes and namespaces are chosen in Grafana."""
    return {
        "uid": UID,
        "title": "interceptor",
        "description": "Mutual TLS between workloads: traffic, denials, certificates.",
        "tags": ["interceptor", "mtls"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": list(_panels()),
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        _values("instance", "Node", "label_values(interceptor_workloads, instance)"),
        _values(
            "namespace",
            "Namespace of the destination",
            "label_values(istio_tcp_connections_opened_total, destination_workload_namespace)",
        ),
    ]


def _values(name: str, label: str, query: str) -> dict[str, Any]:
    """A variable whose values Prometheus knows, of which several can be chosen; all of them to begin with."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _panels() -> Iterator[dict[str, Any]]:
    numbers = count(1)
    top = 0
    for row in ROWS:
        yield {
            "id": next(numbers),
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": GRID_COLUMNS, "h": 1},
        }
        top += 1
        layout = _Layout(top)
        for panel in row.panels:
            yield {"id": next(numbers), "gridPos": layout.place(panel), **_panel(panel)}
        top = layout.bottom


@dataclass(slots=True)
class _Layout:
    """Places panels from left to right, and in a new line where there is no room."""

    top: int
    left: int = 0
    bottom: int = field(init=False)

    def __post_init__(self) -> None:
        self.bottom = self.top

    def place(self, panel: Panel) -> dict[str, int]:
        if self.left + panel.width > GRID_COLUMNS:
            self.left, self.top = 0, self.bottom
        position = {"x": self.left, "y": self.top, "w": panel.width, "h": panel.height}
        self.left += panel.width
        self.bottom = max(self.bottom, self.top + panel.height)
        return position


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": _targets(panel),
        **({"transformations": _COLUMNS} if panel.kind == "table" else {}),
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    """Unit, and the colour from each threshold on; without thresholds everything is green."""
    steps: list[dict[str, Any]] = [{"color": panel.base_colour, "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in panel.thresholds]
    return {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}


def _targets(panel: Panel) -> list[dict[str, Any]]:
    at_once = panel.kind != "timeseries"
    return [
        _target(query, letter, at_once=at_once, is_table=panel.kind == "table")
        for query, letter in zip(panel.queries, _letters(panel.queries), strict=True)
    ]


def _target(query: Query, letter: str, *, at_once: bool, is_table: bool) -> dict[str, Any]:
    return {
        "refId": letter,
        "datasource": _DATASOURCE,
        "expr": query.expression,
        "legendFormat": query.legend,
        "instant": at_once,
        "range": not at_once,
        **({"format": "table"} if is_table else {}),
    }


def _letters(queries: Sequence[Query]) -> str:
    return "ABCDEFGH"[: len(queries)]


_REDUCE: Final = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "stat": {"reduceOptions": _REDUCE, "colorMode": "value", "graphMode": "none", "textMode": "auto"},
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": {"showHeader": True, "sortBy": [{"displayName": "Value", "desc": True}]},
}
_COLUMNS: Final = [{"id": "organize", "options": {"excludeByName": {"Time": True}}}]
