"""What is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from interceptor.config import Config
    from interceptor.kernel.bpf_program import Programs


@dataclass(slots=True)
class Subject:
    """This machine under one configuration; the later fields are filled in by checks, for those that follow.

    `scratch` is a directory for what checks make.  `own_agent` says that an agent with this configuration answers:
    then its port is taken by right.
    """

    config: Config
    scratch: Path
    own_agent: bool
    cgroup: Path | None = None
    headers: Path | None = None  # None: bcc finds them by itself
    programs: Programs | None = None
