"""Run the smoke scenarios in a box of each kernel, one after the other, and print a table of what came of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
LOGS = HERE.parent.parent / "build/vagrant"
BOXES = ("bookworm-5.10", "bookworm-6.1", "bookworm-6.12", "trixie-6.12", "trixie-newest")


def main(boxes: tuple[str, ...]) -> int:
    """Exit status 1 when anything has failed in any box."""
    columns = {box: results_of(box) for box in boxes}
    rows = list(dict.fromkeys(row for results in columns.values() for row in results))
    table = [["", *boxes], *([row, *(columns[box].get(row, "not run") for box in boxes)] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return int(any("failed" in cell for line in table[1:] for cell in line[1:]))


def results_of(box: str) -> dict[str, str]:
    """Row -> result, of one box."""
    started = time.monotonic()
    logs = LOGS / box
    for name in ("scenarios.json", "hooks.json"):
        (logs / name).unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        HERE,
        "-c",
        HERE / "pytest.ini",
        f"--box={box}",
        "-m",
        "smoke",
    ]
    subprocess.run(command, check=False)
    results: dict[str, str] = {}
    for name in ("hooks.json", "scenarios.json"):
        if (logs / name).exists():
            results |= {row: str(result) for row, result in json.loads((logs / name).read_text()).items()}
    shortened = {row: result if len(result) < 24 else f"{result[:21]}..." for row, result in results.items()}
    return {**shortened, "minutes": f"{(time.monotonic() - started) / 60:.1f}"}


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or BOXES))
