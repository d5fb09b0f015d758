"""Run the smoke scenarios in a box of each kernel, one after the other, and print a table of what came of it.

usage: matrix.py [--full] [BOX...]        --full runs all scenarios
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
LOGS = HERE.parent.parent / "build/vagrant"
BOXES = ("bookworm-5.10", "bookworm-6.1", "bookworm-6.12", "trixie-6.12", "trixie-newest")
# What a run leaves in its directory, in the order of the table: hooks and kernel, what the demo shows, scenarios.
RESULTS = ("hooks.json", "features.json", "scenarios.json")
_CELL = 22


def main(arguments: list[str]) -> int:
    """Exit status 1 when anything has failed in any box."""
    scenarios = [] if "--full" in arguments else ["-m", "smoke"]
    boxes = tuple(argument for argument in arguments if argument != "--full") or BOXES
    columns = {box: results_of(box, scenarios) for box in boxes}
    table = table_of(columns)
    print(table)
    (LOGS / "matrix.txt").write_text(f"{table}\n")
    return int(any(is_bad(result) for results in columns.values() for result in results.values()))


def is_bad(result: str) -> bool:
    return result.startswith(("failed", "not run"))


def table_of(columns: dict[str, dict[str, str]]) -> str:
    """A column for each box.  What a box does not have of a row that others have, it cannot do."""
    rows = list(dict.fromkeys(row for results in columns.values() for row in results))
    lines = [["", *columns]]
    for row in rows:
        cells = [results.get(row, "-") for results in columns.values()]
        lines.append([row, *(cell if len(cell) <= _CELL else f"{cell[: _CELL - 3]}..." for cell in cells)])
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def results_of(box: str, scenarios: list[str]) -> dict[str, str]:
    """Row -> result, of one box."""
    started = time.monotonic()
    logs = LOGS / box
    for name in RESULTS:
        (logs / name).unlink(missing_ok=True)
    pytest = [sys.executable, "-m", "pytest", "-q", HERE, "-c", HERE / "pytest.ini", f"--box={box}"]
    status = subprocess.run([*pytest, *scenarios], check=False).returncode
    results: dict[str, str] = {}
    for name in RESULTS:
        if (logs / name).exists():
            found = json.loads((logs / name).read_text())
            results |= {readable(row): str(result) for row, result in found.items()}
    results["run"] = "ok" if status == 0 else f"failed: {logs}"
    return {**results, "minutes": f"{(time.monotonic() - started) / 60:.1f}"}


def readable(row: str) -> str:
    return row.removeprefix("test_").replace("_", " ") if row.startswith("test_") else row


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
