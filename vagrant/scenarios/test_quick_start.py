"""README's quick start and the integration tests, on a machine that was made a minute ago."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from vagrant.scenarios.box import Script


@pytest.mark.smoke
def test_quick_start_shows_what_the_readme_says(quick_start: Script) -> None:
    output = quick_start.wait("demo", timeout=900).check()
    assert "Every line with 'ok' was checked." in output
    for line in (
        "curl got the file over IPv6",
        "0 packets with the plaintext",
        "it is refused",
        "nothing is left",
    ):
        assert line in output


@pytest.mark.smoke
def test_doctor_is_content(quick_start: Script) -> None:
    assert "interceptor can run here" in quick_start.wait("doctor", timeout=300).check()


@pytest.mark.smoke
def test_every_hook_can_be_attached(quick_start: Script, logs: Path) -> None:
    output = quick_start.wait("hooks", timeout=300).check()
    [line] = [line for line in output.splitlines() if line.startswith("HOOKS ")]
    results = json.loads(line.removeprefix("HOOKS "))
    (logs / "hooks.json").write_text(json.dumps(results, indent=1))
    assert not {name: result for name, result in results.items() if str(result).startswith("failed")}


def test_integration_tests_pass(quick_start: Script) -> None:
    quick_start.wait("dependencies", timeout=900).check()
    output = quick_start.wait("integration", timeout=1200).check()
    assert " passed" in output
    assert "skipped" not in output
