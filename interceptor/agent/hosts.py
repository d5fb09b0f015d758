"""The /etc/hosts that `interceptor run` shows its commands: one file for each namespace, always current."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interceptor.enrolment.registry import Registry

log = logging.getLogger(__name__)

_HOSTS = Path("/etc/hosts")


class HostsFiles:
    """Files that are written in place: they are bind-mounted, a new file under the same name would not be seen."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, namespace: str) -> Path:
        """The file for workloads of one namespace."""
        return self._directory / namespace

    def write(self, registry: Registry) -> None:
        """Write the files of all namespaces that have workloads on this node; failures are logged, names are a convenience."""
        try:
            self._directory.mkdir(mode=0o755, exist_ok=True)
            header = _HOSTS.read_text(encoding="utf-8", errors="replace") if _HOSTS.exists() else ""
            for namespace in {workload.namespace for workload in registry.own}:
                _write_in_place(self.path(namespace), registry.hosts_file(namespace, header).encode())
        except OSError as error:
            log.warning("cannot write the hosts files in %s: %s", self._directory, error.strerror)


def _write_in_place(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # One write and then the cut: a reader never sees an empty file.
        os.write(fd, content)
        os.ftruncate(fd, len(content))
    finally:
        os.close(fd)
