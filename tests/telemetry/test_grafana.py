"""The dashboard: a model that Grafana can place, and queries for what the product really exposes."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest

from interceptor.telemetry.grafana import GRID_COLUMNS, dashboard
from tests.telemetry.promql import exposed, labels_left, problems

PANELS: list[dict[str, Any]] = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize(
    ("title", "target"), QUERIES, ids=[f"{title}-{each['refId']}" for title, each in QUERIES]
)
def test_query_asks_for_metrics_and_labels_that_are_exposed(title, target):
    assert problems(target["expr"]) == []
    legend = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
    assert set(legend) <= labels_left(target["expr"])


def test_queries_of_variables_ask_for_what_is_exposed():
    queries = [
        each["query"]["query"] for each in dashboard()["templating"]["list"] if each["type"] == "query"
    ]
    assert len(queries) == 2
    for query in queries:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
        assert label in exposed()[metric]


def test_variables_that_are_used_are_there():
    defined = {each["name"] for each in dashboard()["templating"]["list"]} | {"__rate_interval"}
    used = set(re.findall(r"\$\{?(\w+)", repr(PANELS)))
    assert used <= defined
    assert defined <= used


def test_panels_have_numbers_of_their_own_and_do_not_overlap():
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    cells = [
        {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        for place in (panel["gridPos"] for panel in everything)
    ]
    assert all(one.isdisjoint(other) for one, other in combinations(cells, 2))
    assert all(0 <= x < GRID_COLUMNS for each in cells for x, _ in each)


def test_every_panel_explains_itself_and_every_metric_of_ours_is_on_one():
    assert all(panel["title"] and panel["description"].endswith(".") for panel in PANELS)
    shown = " ".join(target["expr"] for _, target in QUERIES)
    unseen = {name for name in exposed() if not name.endswith(("_sum", "_count")) and name not in shown}
    # Closed is opened minus open; when a certificate was renewed is for alerts.
    assert unseen == {
        "up",
        "istio_tcp_connections_closed_total",
        "interceptor_certificate_last_renewal_seconds",
        "interceptor_node_certificate_last_renewal_seconds",
    }
