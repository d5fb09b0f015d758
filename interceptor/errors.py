"""The errors that reach a person: few, told apart by whose business the remedy is.

`str(error)` is always one line: what failed, with which value, why, and what to do. The command line prints that
line and leaves with `exit_status`; nothing above it needs a traceback.
"""

from datetime import UTC, datetime
from typing import ClassVar

QUOTED_CHARACTERS = 100  # a line of a log stays readable, whatever a peer sends


def quoted(value: object) -> str:
    """Show a value from outside inside a message: in quotes, on one line, ASCII only, at most 100 characters."""
    text = ascii(value)
    return text if len(text) <= QUOTED_CHARACTERS else f"{text[: QUOTED_CHARACTERS - 3]}..."


def utc(instant: datetime) -> str:
    """Show an aware instant inside a message: RFC 3339 in UTC, whole seconds."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class InterceptorError(Exception):
    """The base of every expected failure; `str(e)` is one line for a person."""

    exit_status: ClassVar[int] = 1


class UsageError(InterceptorError):
    """The command line, or an argument's value, was wrong: nothing was attempted."""

    exit_status = 2


class ConfigError(InterceptorError):
    """config.yaml cannot be used; the message starts with file and line."""


class PolicyError(InterceptorError):
    """Policy documents cannot be used, none of them; each of `problems` starts with file, line and column."""

    def __init__(self, *problems: str) -> None:
        more = len(problems) - 1
        super().__init__(f"{problems[0]} (and {more} more)" if more else problems[0])
        self.problems = problems


class InvalidInput(InterceptorError):  # noqa: N818 -- named for what the caller did, not for us failing
    """A value from outside (SPIFFE ID, name, CIDR, address, certificate) failed validation."""


class EnrolmentError(InterceptorError):
    """This workload cannot be enrolled or withdrawn."""


class KernelError(InterceptorError):
    """BPF, netlink, a network namespace or a sysctl refused what was asked of it."""


class StateError(InterceptorError):
    """The state directory, a state file or a lock is not in a state that can be used."""


class AuthorityError(InterceptorError):
    """The certificate authority cannot or will not issue."""


class AuthorityUnavailable(AuthorityError):  # noqa: N818 -- a state of the authority, and expected
    """The certificate authority cannot be reached or cannot answer now: the same may work later."""


class AuthorityRefusal(AuthorityError):  # noqa: N818 -- a verdict on the request, and expected
    """The authority said no; `code` is its word for why (`authority/refusal.py`)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class PeerRejected(InterceptorError):  # noqa: N818 -- a verdict on the peer, and expected
    """The other end of a TLS connection has not proven an identity that we accept.

    `reason` is the value of one member of the closed set in `policy/verdict.py`; it is a plain string here because
    identity knows nothing of policy.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class AgentError(InterceptorError):
    """The agent cannot be reached, or answered with an error."""


class ClusterError(InterceptorError):
    """The Kubernetes API cannot be reached, refuses, or answers with what cannot be used."""
