"""Machines of the mesh that are rebooted in the middle of traffic, or lose their power in the middle of a rotation.

Each comes back by itself, with its return token: nobody logs in to start anything.  In this order: each scenario begins
where the one before has ended.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from vagrant.scenarios.mesh import CA

if TYPE_CHECKING:
    from vagrant.scenarios.box import Box
    from vagrant.scenarios.mesh import Mesh

# Begins and aborts a rotation for ever, with the interpreter started once: whenever the power goes, it is in the middle.
ROTATE_FOR_EVER = """\
from datetime import UTC, datetime
from pathlib import Path

from interceptor.authority.rotation import Step
from interceptor.authority_store import AuthorityStore

store = AuthorityStore.open(Path("/srv/authority"), None)
while True:
    for step in (Step.PREPARE, Step.ABORT):
        store.rotate(step, datetime.now(UTC))
        print(step, flush=True)
"""

pytestmark = pytest.mark.two_nodes


def test_reboot_of_a_joined_node_in_the_middle_of_traffic_shows_no_plaintext(mesh: Mesh) -> None:
    with mesh.recorded(mesh.node_a):
        mesh.traffic.wait()
        mesh.node_b.reboot()
        mesh.traffic.wait()


def test_reboot_of_the_authoritys_node_in_the_middle_of_traffic_shows_no_plaintext(mesh: Mesh) -> None:
    with mesh.recorded(mesh.node_b):
        mesh.traffic.wait()
        mesh.node_a.reboot()
        mesh.traffic.wait()


def phase(node: Box) -> str:
    return str(json.loads(node.check(f"{CA.format('rotate status')} -o json"))["phase"])


def take(node: Box, step: str) -> str:
    """A step, once every node has confirmed the one before; the phase that is said to be reached."""
    return node.wait_for(CA.format(f"rotate {step}")).partition(":")[0]


def test_power_cut_during_a_root_rotation_leaves_the_authority_whole(mesh: Mesh) -> None:
    node = mesh.node_a
    node.write("/root/rotate.py", ROTATE_FOR_EVER)
    node.check("sync")  # of what this scenario itself has written
    node.check(
        "systemd-run --quiet --unit=rotating --property=StandardOutput=truncate:/run/rotated "
        "/opt/interceptor/bin/python /root/rotate.py"
    )
    node.wait_for("test $(wc -l </run/rotated) -gt 4")
    node.cut_power()
    assert phase(node) in ("stable", "prepared")
    if phase(node) == "stable":
        take(node, "prepare")
    node.check(f"{CA.format('status')}")
    mesh.traffic.wait()
    assert take(node, "distribute") == "distributed"


def test_power_cut_after_a_step_of_a_rotation_does_not_take_it_back(mesh: Mesh) -> None:
    node = mesh.node_a
    assert take(node, "activate") == "activated"
    node.cut_power()  # nothing was synced but what the step itself has synced
    assert phase(node) == "activated"
    again = node.run(CA.format("rotate activate"))
    assert again.status == 1
    assert "the next step is retire" in again.output
    mesh.traffic.wait()
    assert take(node, "retire") == "stable"
    mesh.traffic.wait()
