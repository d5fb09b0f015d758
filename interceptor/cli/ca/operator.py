"""Who runs a command, for the audit, and where that is."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from interceptor.agent.authority_process import AUDIT_FILE
from interceptor.agent.clock import wall_clock
from interceptor.authority_service.command_audit import CommandAudit

if TYPE_CHECKING:
    from interceptor.authority_store import AuthorityStore

_NO_LOGIN = 2**32 - 1  # of /proc/self/loginuid: started by no login, as by systemd
_MAX_NAME = 64


def operator() -> dict[str, object]:
    """The user, who logged in (which the kernel remembers through su and sudo), and who called sudo."""
    uid = os.getuid()
    login: int | None = None
    with suppress(OSError, ValueError):
        login = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
    sudo_user = os.environ.get("SUDO_USER")
    return {
        "uid": uid,
        "user": _name(uid),
        "login": None if login in (None, _NO_LOGIN) else _name(login),
        "sudo_user": None if sudo_user is None else sudo_user[:_MAX_NAME],
    }


def audit_of(store: AuthorityStore) -> CommandAudit:
    """The file into which the service of this authority writes."""
    path = store.audit_path() or store.directory / AUDIT_FILE
    return CommandAudit(path, operator(), wall_clock, _warn)


def _warn(text: str) -> None:
    click.echo(f"interceptor: warning: {text}", err=True)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
