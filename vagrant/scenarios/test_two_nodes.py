"""Two machines, two agents, one authority on node-a that both have joined with tokens; a link that others could tap.

In this order: each scenario begins where the one before has ended.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vagrant.scenarios.box import Box

SECRET = "launch code 4712"
AUTHORITY = "192.168.56.11:15012"
LINK = "eth1"  # of the private network
NUMBERS = {"node-a": 1, "node-b": 2}
CONFIG = """\
node: {name}
mesh: {{cidrs: [10.215.0.0/16, "fd15:8::/32"]}}
bridge: {{name: interceptor0, ipv4: 10.215.{number}.1/24, ipv6: "fd15:8:{number}::1/64"}}
authority: {{address: "{authority}"}}
"""
CA = "interceptor ca {} --dir /srv/authority"
ASK = "interceptor run --service-account client --name client -- curl -4 -sS --max-time 20 http://web/"

pytestmark = pytest.mark.two_nodes


def configure(node: Box, other: Box) -> None:
    """README's section on several hosts: a network for each host, a route to the other's."""
    number, others = NUMBERS[node.name], NUMBERS[other.name]
    node.check("interceptor down", timeout=300)
    text = CONFIG.format(name=node.name, number=number, authority=AUTHORITY)
    node.check(f"printf %s '{text}' >/etc/interceptor/config.yaml")
    # A route made by hand would be gone when the link was cut, or the machine rebooted.
    network = (
        *("[Match]", f"Name={LINK}", "[Network]", f"Address={node.address}/24"),
        *("[Route]", f"Destination=10.215.{others}.0/24", f"Gateway={other.address}"),
    )
    lines = " ".join(f"'{line}'" for line in network)
    node.check(f"printf '%s\\n' {lines} >/etc/systemd/network/00-{LINK}.network && networkctl reload")
    forward = "/etc/sysctl.d/scenario.conf"
    node.check(f"echo net.ipv4.ip_forward=1 >{forward} && sysctl --quiet --load {forward}")
    node.wait_for(f"ip route get 10.215.{others}.1 | grep -q {other.address}")


def join(authority: Box, node: Box) -> None:
    """A token from the one, the start on the other."""
    answer = authority.check(f"{CA.format('token create')} --node {node.name} --allow 'ns/*/sa/*' -o json")
    token = json.loads(answer)["token"]
    node.check(f"echo {token} | interceptor up --join-token-file -", timeout=330)


def serve(authority: Box) -> None:
    authority.check(
        f"systemctl reset-failed authority 2>/dev/null || true; "
        f"systemd-run --quiet --unit=authority {CA.format('serve')} --listen {AUTHORITY}"
    )
    authority.wait_for("ss --listening --tcp --numeric | grep -q :15012")


def start_web(node: Box) -> None:
    node.check(
        f"mkdir -p /srv/web && echo '{SECRET}' >/srv/web/index.html; systemctl reset-failed web 2>/dev/null || true"
    )
    web = "python3 -m http.server 80 --bind :: --directory /srv/web"
    node.check(f"systemd-run --quiet --unit=web interceptor run --service-account web --name web -- {web}")


@pytest.fixture(scope="module")
def mesh(installed: dict[str, Box]) -> dict[str, Box]:
    """Both nodes joined, and a web server on node-b."""
    node_a, node_b = installed["node-a"], installed["node-b"]
    node_a.check("systemctl stop interceptor")
    node_b.check("systemctl stop interceptor")
    configure(node_a, node_b)
    configure(node_b, node_a)
    node_a.check(CA.format("init"))
    serve(node_a)
    join(node_a, node_a)
    join(node_a, node_b)
    start_web(node_b)
    return installed


@pytest.fixture
def wire(mesh: dict[str, Box]) -> Iterator[None]:
    """Records every packet on the link between the two; there must be tunnels in it, and no plaintext."""
    node = mesh["node-b"]
    capture = f"tcpdump -i {LINK} -U -s 0 -w /run/wire.pcap"
    node.check(
        f"rm -f /run/wire.pcap; systemctl reset-failed wire 2>/dev/null || true; systemd-run --quiet --unit=wire {capture}"
    )
    node.wait_for("test -e /run/wire.pcap")
    yield
    node.check("systemctl stop wire")
    assert node.run(f"grep --text --quiet '{SECRET}' /run/wire.pcap").status == 1, "plaintext on the wire"
    assert "15008" in node.check("tcpdump -n -r /run/wire.pcap 2>/dev/null | grep 15008")


def test_workloads_of_two_nodes_talk_mutual_tls(mesh: dict[str, Box], wire: None) -> None:
    node_a, node_b = mesh["node-a"], mesh["node-b"]
    assert SECRET in node_a.wait_for(ASK)
    records = json.loads(node_b.check("interceptor connections -o json"))
    record = next(each for each in reversed(records) if each["verdict"] == "permit")
    text = json.dumps(record)
    for identity in (
        "spiffe://cluster.local/ns/default/sa/client",
        "spiffe://cluster.local/ns/default/sa/web",
        "TLSv1.3",
    ):
        assert identity in text


def test_link_that_was_cut_and_healed_carries_again(mesh: dict[str, Box], wire: None) -> None:
    node_a, node_b = mesh["node-a"], mesh["node-b"]
    node_b.link("down")
    assert SECRET not in node_a.run(ASK).output
    node_b.link("up")
    assert SECRET in node_a.wait_for(ASK)


def test_clock_that_is_an_hour_ahead_is_told_and_recovered_from(mesh: dict[str, Box], wire: None) -> None:
    node_a, node_b = mesh["node-a"], mesh["node-b"]
    node_b.check("date --set=@$(($(date +%s) + 3600))")
    refused = node_b.run("interceptor run --service-account other --name other -- true")
    assert refused.status != 0
    assert "ahead of the authority's" in refused.output
    node_b.check("date --set=@$(($(date +%s) - 3600))")
    assert SECRET in node_a.wait_for(ASK)
