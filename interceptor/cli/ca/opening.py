"""What the commands have in common: which authority, its passphrase, the time, and durations as options."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from interceptor.agent.authority_access import AUTHORITY_DIRECTORY
from interceptor.agent.process import forbid_core_dumps
from interceptor.authority_store import AuthorityStore
from interceptor.cli.ca.operator import audit_of
from interceptor.cli.ca.shared import (
    AGENTS_OPTION,
    SECRET_OPTION,
    access_said,
    change_shared,
    secret_key,
    service_account,
)
from interceptor.cli.context import pass_session
from interceptor.config.values import parse_duration
from interceptor.errors import InvalidInput, StateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from interceptor.cli.context import Session

_T = TypeVar("_T")

MAX_PASSPHRASE = 1024
VARIABLE = "INTERCEPTOR_CA_PASSPHRASE_FILE"
DIRECTORY_VARIABLE = "INTERCEPTOR_CA_DIR"

_DIRECTORY = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=DIRECTORY_VARIABLE,
    help="Directory of the authority; with --secret, in memory, where to work.  [default: 'authority' in paths.state "
    "of the configuration]",
)
_PASSPHRASE = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar=VARIABLE,
    help=f"File with the passphrase of its private keys, if they are encrypted; also ${VARIABLE}.",
)
_KUBERNETES = click.option(
    "--kubernetes",
    "api_server",
    metavar="URL|pod",
    help="With --secret: the API server, such as http://127.0.0.1:8001 of 'kubectl proxy'.  [default: as in a pod]",
)


def place_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which authority is meant: the command gets `session`, `directory` and `passphrase`."""

    def with_place(
        session: Session, /, directory: Path | None, passphrase_file: Path | None, **arguments: object
    ) -> None:
        forbid_core_dumps()  # the passphrase, and the authority's keys, are about to be read
        place = directory or session.config.paths.state_dir / AUTHORITY_DIRECTORY
        passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
        command(session=session, directory=place.absolute(), passphrase=passphrase, **arguments)

    update_wrapper(with_place, command)
    return _DIRECTORY(_PASSPHRASE(pass_session(with_place)))


def with_store(command: Callable[..., None]) -> Callable[..., None]:
    """The same options; the command gets the authority, opened, as its first argument."""

    def opened(session: Session, directory: Path, passphrase: bytes | None, **arguments: object) -> None:
        del session
        with closing(AuthorityStore.open(directory, None, passphrase=passphrase)) as store:
            command(store, **arguments)

    update_wrapper(opened, command)
    return place_options(opened)


def with_any_store(command: Callable[..., None]) -> Callable[..., None]:
    """The same for what an authority in a Secret can be asked and told too, which a copy of it is then."""

    def opened(
        session: Session,
        directory: Path,
        passphrase: bytes | None,
        secret: str | None,
        agents: str | None,
        api_server: str | None,
        **arguments: object,
    ) -> None:
        del session
        if secret is None:
            with closing(AuthorityStore.open(directory, None, passphrase=passphrase)) as store:
                command(store, **arguments)
            return
        if agents is None:
            raise UsageError("--secret needs to know whose pods the nodes' agents are: give --agents too")
        change_shared(
            lambda store: command(store, **arguments),
            access_said(api_server),
            secret_key(secret),
            service_account(agents),
            directory,
            passphrase,
        )

    update_wrapper(opened, command)
    return SECRET_OPTION(AGENTS_OPTION(_KUBERNETES(place_options(opened))))


def with_audited_store(command: Callable[..., None]) -> Callable[..., None]:
    """The same for a command that changes something: it gets the authority, and the audit to note the change in."""

    return with_store(_audited(command))


def with_any_audited_store(command: Callable[..., None]) -> Callable[..., None]:
    """The same, also for an authority in a Secret."""
    return with_any_store(_audited(command))


def _audited(command: Callable[..., None]) -> Callable[..., None]:
    def audited(store: AuthorityStore, /, **arguments: object) -> None:
        command(store, audit_of(store), **arguments)

    update_wrapper(audited, command)
    return audited


def said(parse: Callable[..., _T], *values: object) -> _T:
    """What was given on the command line, parsed; UsageError when it cannot be right."""
    try:
        return parse(*values)
    except InvalidInput as error:
        raise UsageError(str(error)) from None


def duration(text: str, shortest: timedelta, longest: timedelta) -> timedelta:
    """An option's value such as 10m; UsageError when it is none, or out of bounds."""
    return said(parse_duration, text, shortest, longest)


def read_passphrase(path: Path) -> bytes:
    """The first line of a file that only its owner can read; StateError says what is wrong with it."""
    try:
        # Non-blocking: a FIFO that nobody writes into would be waited for without end.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise StateError(f"the passphrase file {path} is not a regular file")
            content = file.read(MAX_PASSPHRASE + 2)
    except OSError as error:
        raise StateError(f"cannot read the passphrase file {path}: {error.strerror}") from None
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise StateError(
            f"passphrase file {path} is open to group or others (mode {mode:04o}): chmod 600 {path}"
        )
    passphrase = content.partition(b"\n")[0].removesuffix(b"\r")
    if not 0 < len(passphrase) <= MAX_PASSPHRASE:
        raise StateError(f"the first line of {path} is no passphrase of 1 to {MAX_PASSPHRASE} bytes")
    return passphrase
