"""doctor: can this machine run an agent?  What can be tried is tried.  Below it, what is asked of something else."""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from interceptor.cli.network_policy import network_policy
from interceptor.cli.output import coloured, line_width, output_option, print_data
from interceptor.errors import AgentError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interceptor.cli.context import Session
    from interceptor.kernel.preflight import Finding

_LEVEL_WIDTH, _CHECK_WIDTH = 9, 17


@click.group(invoke_without_command=True)
@output_option
@click.pass_context
def doctor(context: click.Context, output: str) -> None:
    """Say whether this machine can run an agent; exit status 1 if it cannot.

    \b
    Everything is really tried: the BPF programs are compiled, loaded and attached, a
    network namespace is joined to a bridge. What that needs is made for it and removed
    again; nothing of yours is touched, and a running agent is not disturbed.

    \b
    Examples:
      sudo interceptor doctor
      sudo interceptor doctor -o json | jq '.checks[] | select(.level != "ok")'
      interceptor doctor network-policy --enrol shop manifests/
    """
    if context.invoked_subcommand is None:
        _diagnose(context.obj, output)
    elif context.get_parameter_source("output") is ParameterSource.COMMANDLINE:
        raise UsageError(f"give -o after {context.invoked_subcommand}, whose format it shall be")


def _diagnose(session: Session, output: str) -> None:
    from interceptor.kernel.preflight import run_checks

    findings = run_checks(session.config, own_agent=_has_agent(session))
    levels = _print_lines(findings) if output == "table" else _print_data(findings, output)
    if levels["failure"]:
        sys.exit(1)


doctor.add_command(network_policy)


def _has_agent(session: Session) -> bool:
    try:
        session.ask("status")
    except AgentError:
        return False
    return True


def _print_lines(findings: Iterable[tuple[str, Finding]]) -> Counter[str]:
    levels: Counter[str] = Counter()
    for check, finding in findings:
        levels[finding.level.value] += 1
        level = coloured(finding.level.value) + " " * (_LEVEL_WIDTH - len(finding.level))
        lines = _wrapped(finding.message)
        if finding.remedy:
            lines += _wrapped(f"-> {finding.remedy}")
        click.echo(f"{level}{check:<{_CHECK_WIDTH}}{lines[0]}")
        for line in lines[1:]:
            click.echo(" " * (_LEVEL_WIDTH + _CHECK_WIDTH) + line)
    click.echo(_conclusion(levels))
    return levels


def _wrapped(text: str) -> list[str]:
    width = line_width() - _LEVEL_WIDTH - _CHECK_WIDTH
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _conclusion(levels: Counter[str]) -> str:
    def count(level: str) -> str:
        return f"{levels[level]} {level}{'' if levels[level] == 1 else 's'}"

    if levels["failure"]:
        return f"{count('failure')}, {count('warning')}: interceptor cannot run here yet"
    if levels["warning"]:
        return f"{count('warning')}, no failure: interceptor can run here"
    return "all is well: interceptor can run here"


def _print_data(findings: Iterable[tuple[str, Finding]], output: str) -> Counter[str]:
    checks = [
        {"check": check, "level": finding.level.value, "message": finding.message, "remedy": finding.remedy}
        for check, finding in findings
    ]
    levels = Counter(str(check["level"]) for check in checks)
    print_data({"can_run": not levels["failure"], "checks": checks}, output)
    return levels
