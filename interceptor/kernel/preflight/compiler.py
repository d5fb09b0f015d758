"""bcc, kernel headers, and whether the programs really compile and load with them."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.errors import KernelError
from interceptor.kernel.bpf_program import import_bcc, load_programs
from interceptor.kernel.headers import find_headers
from interceptor.kernel.preflight.finding import failure, failure_of, ok

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interceptor.kernel.preflight.finding import Finding
    from interceptor.kernel.preflight.subject import Subject


def check_bcc(_subject: Subject) -> Iterator[Finding]:
    """The distribution's module, new enough."""
    try:
        bcc = import_bcc()
    except KernelError as error:
        yield failure_of(error)
        return
    version = str(getattr(bcc, "__version__", "")) or "without a version number"
    yield ok(f"bcc {version}, {Path(bcc.__file__).parent}")


def check_headers(subject: Subject) -> Iterator[Finding]:
    """A header tree to compile with."""
    configured = subject.config.paths.kernel_headers
    if configured is None and (from_environment := os.environ.get("BCC_KERNEL_SOURCE")):
        configured = Path(from_environment)
    try:
        tree = find_headers(configured, platform.release(), subject.scratch)
    except KernelError as error:
        yield failure_of(error)
        return
    subject.headers = tree.path
    # Where it was put together is gone when somebody reads this.
    yield ok(
        re.sub(rf", (merged in|unpacked into) {re.escape(str(subject.scratch))}\S*", "", tree.description)
    )


def check_programs(subject: Subject) -> Iterator[Finding]:
    """Compile and load all of them; nothing is attached."""
    try:
        subject.programs = load_programs(subject.headers)
    except KernelError as error:
        # The remedy in it is to run the doctor.
        message = str(error).removesuffix(": run 'interceptor doctor'")
        yield failure(
            message,
            "install kernel headers of about this kernel's version; in a container, run it privileged",
        )
        return
    yield ok(f"{len(subject.programs.programs) + 1} programs compile, and the kernel accepts them")
