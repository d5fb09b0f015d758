"""A pytest plugin for the tests that run inside a box: each, and each wait, may take longer than on a real processor."""

from __future__ import annotations

import pytest

from tests.harness import patience

patience.FACTOR = FACTOR = 10.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Multiply the time that pytest-timeout gives each test."""
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0]) if marker else float(config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(seconds * FACTOR), append=False)
