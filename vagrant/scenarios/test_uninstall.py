"""`make uninstall`, when everything else was tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vagrant.scenarios.box import Box

PATHS = (
    "/opt/interceptor",
    "/etc/interceptor",
    "/var/lib/interceptor",
    "/run/interceptor",
    "/sys/fs/bpf/interceptor",
    "/usr/local/bin/interceptor",
    "/usr/local/lib/systemd/system/interceptor.service",
)


@pytest.mark.parametrize("name", ["node-a", "node-b"])
def test_uninstall_leaves_nothing(installed: dict[str, Box], name: str) -> None:
    node = installed[name]
    node.check("make uninstall PURGE=1")
    found = node.run(f"ls -d {' '.join(PATHS)}").output
    assert found.count("No such file or directory") == len(PATHS), found
    assert node.run("ip link show interceptor0").status != 0
