"""One node with the version before, the other with this one; then the first is upgraded, while traffic goes on."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from vagrant.scenarios.box import HERE, INSTALL_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from vagrant.scenarios.box import Box
    from vagrant.scenarios.mesh import Mesh

PRODUCT = ("interceptor", "bpf", "pyproject.toml")
INSTALLED = "cat $(find /opt/interceptor/lib -path '*site-packages/interceptor/*' -type f ! -name '*.pyc' | sort) | sha256sum"
# As `make install` does it: the environment has no pip of its own.
INSTALL = (
    "PYTHONPATH=$(echo /usr/share/python-wheels/pip-*.whl) /opt/interceptor/bin/python -m pip --quiet install "
    "--no-deps --no-index --force-reinstall /run/interceptor-*.whl"
)
WEB = "interceptor run --service-account web --name web-a -- python3 -m http.server 80 --bind :: --directory /srv/web"
ASK = "interceptor run --service-account client --name client-b -- curl -sS --max-time 20 http://web-a/"

pytestmark = pytest.mark.two_nodes


def git(*arguments: str) -> str:
    command = ["git", "-C", HERE.parent, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def version_before() -> str:
    """The last release; before the first one, the commit before the last one that changed the product."""
    if tags := git("tag", "--merged", "HEAD~1", "--sort=-creatordate").splitlines():
        return tags[0]
    return git("rev-list", "--max-count=2", "HEAD", "--", *PRODUCT).splitlines()[-1]


@pytest.fixture
def wheel_before(tmp_path: Path) -> Path:
    """The wheel of the version before."""
    source = tmp_path / "source"
    source.mkdir()
    archive = subprocess.run(
        ["git", "-C", HERE.parent, "archive", version_before()], check=True, capture_output=True
    )
    subprocess.run(["tar", "--extract", "--directory", source], input=archive.stdout, check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", tmp_path, source], check=True)
    [wheel] = tmp_path.glob("interceptor-*.whl")
    return wheel


def install_before(node: Box, wheel: Path) -> None:
    """The version before in place of this one; its agent is ready when this returns."""
    node.write(f"/run/{wheel.name}", wheel.read_bytes())
    node.check(INSTALL)
    # `up` has started it; from now on it is the service, which goes on as the node that has joined.
    node.check(
        "kill $(interceptor status -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"pid\"])')"
    )
    node.wait_for("! test -e /run/interceptor/admin.sock || ! interceptor status")
    node.check("systemctl reset-failed interceptor; systemctl start interceptor")


def test_node_with_the_version_before_is_upgraded_while_traffic_goes_on(
    mesh: Mesh, wheel_before: Path
) -> None:
    node_a, node_b = mesh.node_a, mesh.node_b
    with mesh.recorded(node_a):
        new = node_b.check(INSTALLED)
        install_before(node_b, wheel_before)
        assert node_b.check(INSTALLED) != new
        mesh.traffic.wait()
        node_a.check(
            f"mkdir -p /srv/web && echo other way >/srv/web/index.html && systemd-run --quiet --unit=web-a {WEB}"
        )
        assert "other way" in node_b.wait_for(ASK)
        node_a.check("systemctl stop web-a")
        node_b.check("make install", timeout=INSTALL_SECONDS)
        assert node_b.check(INSTALLED) == new
        node_b.check("systemctl restart interceptor")
        mesh.traffic.wait()
