"""Two machines, two agents, one authority on node-a that both have joined with tokens; a link that others could tap.

In this order: each scenario begins where the one before has ended.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vagrant.scenarios.mesh import Mesh

pytestmark = pytest.mark.two_nodes


@pytest.fixture
def wire(mesh: Mesh) -> Iterator[None]:
    with mesh.recorded(mesh.node_b):
        yield


def test_workloads_of_two_nodes_talk_mutual_tls(mesh: Mesh, wire: None) -> None:
    mesh.traffic.wait()
    records = json.loads(mesh.node_b.check("interceptor connections -o json"))
    record = next(each for each in reversed(records) if each["verdict"] == "permit")
    text = json.dumps(record)
    for identity in (
        "spiffe://cluster.local/ns/default/sa/client",
        "spiffe://cluster.local/ns/default/sa/web",
        "TLSv1.3",
    ):
        assert identity in text


def test_link_that_was_cut_and_healed_carries_again(mesh: Mesh, wire: None) -> None:
    mesh.node_b.link("down")
    assert not mesh.traffic.flows()
    mesh.node_b.link("up")
    mesh.traffic.wait()


@pytest.mark.parametrize(("seconds", "told"), [(3600, "ahead of"), (-3600, "behind")])
def test_clock_that_is_an_hour_off_is_told_and_recovered_from(
    mesh: Mesh, wire: None, seconds: int, told: str
) -> None:
    node_b = mesh.node_b
    node_b.check(f"date --set=@$(($(date +%s) + {seconds}))")
    refused = node_b.run("interceptor run --service-account other --name other -- true")
    assert refused.status != 0
    assert f"{told} the authority's" in refused.output
    if seconds < 0:  # the other's certificate is from the future
        node_b.wait_for("grep -q peer_certificate_not_yet_valid /var/lib/interceptor/connections.jsonl")
    node_b.check(f"date --set=@$(($(date +%s) - {seconds}))")
    mesh.traffic.wait()
