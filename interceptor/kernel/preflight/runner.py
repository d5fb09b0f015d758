"""All checks in order; one that needs what another did not find is not tried, and says so."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.kernel.preflight import compiler, hooks, network, storage, system
from interceptor.kernel.preflight.finding import Finding, Level, failure, warning
from interceptor.kernel.preflight.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from interceptor.config import Config


@dataclass(frozen=True, slots=True)
class Check:
    """One check, and the names of those that must not have failed before it."""

    name: str
    run: Callable[[Subject], Iterator[Finding]]
    needs: tuple[str, ...] = ()


PRIVILEGES, CGROUP, BCC, HEADERS, PROGRAMS = (
    "privileges",
    "cgroup v2",
    "bcc",
    "kernel headers",
    "bpf programs",
)

CHECKS = (
    Check(PRIVILEGES, system.check_privileges),
    Check("kernel", system.check_kernel),
    Check(CGROUP, storage.check_cgroup),
    Check("bpf file system", storage.check_bpf_file_system),
    Check(BCC, compiler.check_bcc),
    Check(HEADERS, compiler.check_headers),
    Check(PROGRAMS, compiler.check_programs, (PRIVILEGES, BCC, HEADERS)),
    Check("bpf hooks", hooks.check_hooks, (CGROUP, PROGRAMS)),
    Check("other software", hooks.check_other_programs, (PRIVILEGES, CGROUP)),
    Check("network", network.check_links, (PRIVILEGES,)),
    Check("addresses", network.check_addresses),
    Check("metrics port", network.check_metrics_port),
    Check("open files", system.check_descriptors),
    Check("clock", system.check_clock),
    Check("directories", storage.check_directories),
)


def run_checks(config: Config, *, own_agent: bool) -> Iterator[tuple[str, Finding]]:
    """The name of each check with each of its findings, as they are found; takes about two seconds.

    `own_agent` says that an agent with this configuration is running.  Call it before there are threads.
    """
    failed: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="interceptor-doctor-") as scratch:
        subject = Subject(config, Path(scratch), own_agent)
        try:
            for check in CHECKS:
                for finding in _findings(check, subject, failed):
                    if finding.level is Level.FAILURE:
                        failed.add(check.name)
                    yield check.name, finding
        finally:
            if subject.programs is not None:
                subject.programs.close()


def _findings(check: Check, subject: Subject, failed: set[str]) -> Iterator[Finding]:
    unmet = [name for name in check.needs if name in failed]
    if unmet:
        failed.add(check.name)
        yield warning("not tried", f"first: {', '.join(unmet)}")
        return
    try:
        yield from check.run(subject)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        yield failure(
            f"cannot be checked ({where}{error.strerror})", "run the doctor as root, outside of a container"
        )
