"""What is shipped for Prometheus and Grafana: valid, and about metrics that exist."""

from __future__ import annotations

import json

import yaml

from interceptor.telemetry.grafana import dashboard
from tests.harness.process import CLI, run
from tests.telemetry.promql import problems


def test_alert_rules_are_printed_and_name_only_metrics_and_labels_that_exist() -> None:
    printed = run([CLI, "alert-rules"]).check().stdout
    groups = yaml.safe_load(printed)["groups"]
    assert [len(group["rules"]) for group in groups] == [8, 5, 1, 2, 5]
    rules = [rule for group in groups for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    assert len(names) == len(set(names))
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert problems(rule["expr"]) == [], rule["alert"]


def test_dashboard_is_printed_as_json() -> None:
    assert json.loads(run([CLI, "grafana-dashboard"]).check().stdout) == dashboard()
