"""What every command is given: the configuration, the agent's socket, and how to print."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from interceptor import admin
from interceptor.config import Config, parse_config
from interceptor.errors import ConfigError, KernelError

DEFAULT_CONFIG = Path("/etc/interceptor/config.yaml")


@dataclass
class Session:
    """One invocation."""

    config_path: Path | None

    @cached_property
    def config(self) -> Config:
        """The configuration file's content; the defaults when there is no file in the usual place."""
        return read_config(self.config_path)

    def ask(self, command: str, *, seconds: float = admin.ANSWER_SECONDS, **arguments: object) -> Any:  # noqa: ANN401
        """Ask the running agent; the result is JSON."""
        path = self.config.paths.run_dir / "admin.sock"
        return admin.ask(path, command, seconds=seconds, **arguments)

    def progress(self, text: str) -> None:
        """Say what is being done, on standard error: standard output is for results."""
        click.echo(text, err=True)


pass_session = click.make_pass_decorator(Session)


def read_config(path: Path | None) -> Config:
    """Read and parse the configuration; ConfigError in one line."""
    explicit = path is not None
    path = path or DEFAULT_CONFIG
    node = platform.node() or "localhost"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if explicit:
            raise ConfigError(f"{path} does not exist: give an existing file with --config") from error
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"cannot read {path}: {reason}") from error
    name = path.name if not explicit else str(path)
    return parse_config(text, name, node=node, environment=os.environ)


def require_root(what: str) -> None:
    """Refuse early, before anything is half done."""
    if os.geteuid() != 0:
        raise KernelError(f"{what} needs root: use sudo")
