"""The alerting rules that are shipped: valid, and about metrics that exist."""

from __future__ import annotations

import re

import yaml

from interceptor.telemetry.metrics import Metrics
from tests.harness.process import CLI, run


def test_alert_rules_are_printed_and_name_only_metrics_that_exist() -> None:
    printed = run([CLI, "alert-rules"]).check().stdout
    groups = yaml.safe_load(printed)["groups"]
    assert [group["name"] for group in groups] == ["interceptor-certificates", "interceptor-policies"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len({rule["alert"] for rule in rules}) == 9
    exposed = Metrics().expose().decode()
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        for metric in re.findall(r"\binterceptor_\w+", rule["expr"]):
            assert f"# TYPE {metric} gauge" in exposed or f"# TYPE {metric} counter" in exposed, metric
        assert rule["expr"].count("(") == rule["expr"].count(")")
