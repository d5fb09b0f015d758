"""Bytes, durations and instants as people read them.  Pure: `now` is an argument."""

from __future__ import annotations

from datetime import datetime

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def in_bytes(count: int) -> str:
    """`512 B`, `1.5 kB`, `2.0 GB`: decimal units, as network speeds have them."""
    value, unit = float(count), 0
    while value >= 999.95 and unit < len(_BYTE_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.1f} {_BYTE_UNITS[unit]}"


def in_milliseconds(milliseconds: float) -> str:
    """`0.4 ms`, `52 ms`, `3.1 s`, and longer ones as `in_seconds` has them."""
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1000:.1f} s" if milliseconds < 60_000 else in_seconds(milliseconds / 1000)


def in_seconds(seconds: float) -> str:
    """The two largest units: `42s`, `3m 5s`, `23h 59m`, `12d 4h`; negative ones have a minus sign."""
    if seconds < 0:
        return f"-{in_seconds(-seconds)}"
    whole = round(seconds)
    for size, unit, smaller, smaller_unit in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "m"),
        (_MINUTE, "m", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // smaller}{smaller_unit}"
    return f"{whole}s"


def seconds_until(instant: str, now: datetime) -> float:
    """From `now` (aware) to an instant in ISO 8601."""
    return (datetime.fromisoformat(instant) - now).total_seconds()
