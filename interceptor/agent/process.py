"""What a process that holds private keys and many connections does at its start."""

from __future__ import annotations

import ctypes
import logging
import resource
import sys

from interceptor.errors import InterceptorError, KernelError

_PR_SET_DUMPABLE = 4
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_stderr() -> None:
    """Let everything that is logged appear on standard error."""
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT, stream=sys.stderr)


def raise_descriptor_limit() -> None:
    """Let this process have as many file descriptors as it may."""
    # Each connection takes two on each side.  Only up to the hard limit: more
    # would need CAP_SYS_RESOURCE, which containers often lack.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def forbid_core_dumps() -> None:
    """Keep the private keys in memory out of core files; KernelError when that cannot be."""
    # A core file would put the workloads' private keys on the disk.  This holds for one that is piped to a program,
    # too, where RLIMIT_CORE does not.
    if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise KernelError("cannot switch core dumps off (prctl PR_SET_DUMPABLE)")


def single_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The expected error inside a nursery's group, if that is what it is about."""
    expected = group.subgroup(InterceptorError)
    while expected is not None and isinstance(expected, BaseExceptionGroup):
        first = expected.exceptions[0]
        if not isinstance(first, BaseExceptionGroup):
            return first
        expected = first
    return group
