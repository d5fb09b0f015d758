"""A fixed clock, an authority's files, disks that are full, and processes killed at each of their steps."""

import os
import resource
import signal
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain

DOMAIN = TrustDomain("cluster.local")
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY = timedelta(days=1)
STEPS = ("mkdir", "open", "fsync", "rename", "rmdir", "unlink")


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def only_issuer(home):
    (issuer,) = (home / "issuers").iterdir()
    return issuer


def issues(authority, now=NOW):
    spiffe_id = SpiffeId(DOMAIN, "default", "web")
    request = create_signing_request(spiffe_id, create_private_key())
    return authority.sign(request, spiffe_id, timedelta(hours=1), now)


@contextmanager
def full_disk():
    """Every write to a file fails, as the kernel lets it fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def killed_at(step, action, also=()):
    """Run `action` in a child that kills itself before its call number `step`; False if it got through.

    Counted are the system calls that change files, and the functions `also`, as (owner, name).
    """
    child = os.fork()
    if child == 0:
        count = 0

        def counted(call):
            def replacement(*args, **kwargs):
                nonlocal count
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return call(*args, **kwargs)

            return replacement

        for owner, name in [*((os, name) for name in STEPS), *also]:
            setattr(owner, name, counted(getattr(owner, name)))
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0
