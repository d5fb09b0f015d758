"""What was measured, as figures, ratios and floors; as a table and as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INTERCEPTOR, ENVOY, DIRECT = "interceptor", "envoy", "no mesh"
CONTENDERS = (INTERCEPTOR, ENVOY, DIRECT)
RATIOS = ((INTERCEPTOR, ENVOY), (ENVOY, DIRECT), (INTERCEPTOR, DIRECT))

# key -> what it is called in the table, and the digits after the point
FIGURES = {
    "bulk_gbit_per_second": ("bulk, Gbit/s", 2),
    "round_trip_median_us": ("round trip of 128 bytes, median, µs", 1),
    "round_trip_p99_us": ("round trip of 128 bytes, p99, µs", 1),
    "connections_per_second": ("new connections, one by one, 1/s", 0),
    "bulk_cpu_user_seconds_per_gb": ("bulk, proxy's user CPU, s/GB", 3),
    "bulk_cpu_system_seconds_per_gb": ("bulk, proxy's system CPU, s/GB", 3),
    "bulk_cpu_seconds_per_gb": ("bulk, proxy's CPU, s/GB", 3),
    "round_trip_cpu_us": ("round trip, proxy's CPU, µs", 1),
    "connection_cpu_us": ("new connection, proxy's CPU, µs", 0),
}

Figures = dict[str, float]  # of one contender in one round
Round = dict[str, Figures]  # by contender


@dataclass(frozen=True, slots=True)
class Floor:
    """What the interceptor must reach, as a ratio to Envoy."""

    figure: str
    text: str
    limit: float
    at_least: bool

    def met(self, ratio: float) -> bool:
        return ratio >= self.limit if self.at_least else ratio <= self.limit


FLOORS = (
    Floor("bulk_gbit_per_second", "bulk at least 0.7 of Envoy's", 0.7, at_least=True),
    Floor("round_trip_median_us", "median round trip at most 2 times Envoy's", 2.0, at_least=False),
)


def figures(rounds: Sequence[Round]) -> dict[str, Figures]:
    """The medians of each contender."""
    return {
        name: {key: median(one[name][key] for one in rounds) for key in rounds[0][name]}
        for name in CONTENDERS
    }


def ratios(rounds: Sequence[Round]) -> dict[str, Figures]:
    """Each round's own ratios, and their medians: what else the machine does meanwhile mostly cancels out."""
    return {
        f"{over}/{under}": {
            key: median(one[over][key] / one[under][key] for one in rounds)
            for key in FIGURES
            if all(one[name].get(key) for name in (over, under) for one in rounds)
        }
        for over, under in RATIOS
    }


def floors(found: Mapping[str, Figures]) -> list[dict[str, Any]]:
    """Whether each floor is met."""
    against_envoy = found[f"{INTERCEPTOR}/{ENVOY}"]
    return [
        {
            "floor": floor.text,
            "ratio": against_envoy[floor.figure],
            "met": floor.met(against_envoy[floor.figure]),
        }
        for floor in FLOORS
    ]


def table(report: Mapping[str, Any]) -> str:
    """The report for people."""
    names = [*CONTENDERS, *(f"{over}/{under}" for over, under in RATIOS)]
    width = max(len(title) for title, _ in FIGURES.values())
    lines = [
        f"{report['title']}",
        "",
        "  ".join([" " * width, *(f"{name:>{_column(name)}}" for name in names)]),
    ]
    for key, (title, digits) in FIGURES.items():
        cells = [f"{title:<{width}}"]
        for name in names:
            source = report["figures"] if name in CONTENDERS else report["ratios"]
            value = source[name].get(key)
            shown = "-" if value is None else f"{value:.{digits if name in CONTENDERS else 2}f}"
            cells.append(f"{shown:>{_column(name)}}")
        lines.append("  ".join(cells))
    verdicts = [
        f"{'pass' if floor['met'] else 'FAIL'}: {floor['floor']} ({floor['ratio']:.2f})"
        for floor in report["floors"]
    ]
    return "\n".join([*lines, "", *verdicts])


def _column(name: str) -> int:
    return max(len(name), 8)
