"""The one wall clock: everything else is handed it, or the time that it told."""

from datetime import UTC, datetime


def wall_clock() -> datetime:
    """The time of day, aware."""
    return datetime.now(UTC)  # noqa: TID251 - this is the place that the ban points to
