"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much it matters: a failure keeps the agent from running, a warning limits it."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line about this machine: what was found, and, unless it is ok, what to do."""

    level: Level
    message: str
    remedy: str = ""


def ok(message: str) -> Finding:
    """It is as it should be."""
    return Finding(Level.OK, message)


def warning(message: str, remedy: str) -> Finding:
    """It works, but less well."""
    return Finding(Level.WARNING, message, remedy)


def failure(message: str, remedy: str) -> Finding:
    """It cannot work."""
    return Finding(Level.FAILURE, message, remedy)


def failure_of(error: Exception) -> Finding:
    """A failure from one of our errors, whose message ends with its remedy after the last colon, if it has one."""
    problem, separator, remedy = str(error).rpartition(": ")
    return failure(problem, remedy) if separator else failure(str(error), "")
