"""Two machines that have joined one authority on node-a, as README's section on several hosts says."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vagrant.scenarios.workloads import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vagrant.scenarios.box import Box

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
_AUTHORITY_UNIT = f"""\
[Unit]
After=network-online.target
Wants=network-online.target
Before=interceptor.service
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/local/bin/{CA.format("serve")} --listen {AUTHORITY}
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True)
class Mesh:
    """The authority's node, the other one, and traffic from the first to the second."""

    node_a: Box
    node_b: Box
    traffic: Traffic

    @classmethod
    def join(cls, node_a: Box, node_b: Box, secret: str) -> Mesh:
        """Both configured and joined, a web server on node-b, a client on node-a."""
        mesh = cls(node_a, node_b, Traffic(node_a, node_b, secret))
        with ThreadPoolExecutor() as both:
            list(both.map(_configure, (node_a, node_b), (node_b, node_a)))
        node_a.run(
            "systemctl disable --now authority; rm -rf /srv/authority"
        )  # of a run before, in the same boxes
        node_a.check(CA.format("init"))
        node_a.write("/etc/systemd/system/authority.service", _AUTHORITY_UNIT)
        node_a.check("systemctl daemon-reload && systemctl enable --quiet --now authority")
        node_a.wait_for("ss --listening --tcp --numeric | grep -q :15012")
        with ThreadPoolExecutor() as both:
            list(both.map(mesh.join_with_token, (node_a, node_b)))
        mesh.traffic.start()
        return mesh

    def join_with_token(self, node: Box) -> None:
        """A token from the authority, the start on the other."""
        answer = self.node_a.check(
            f"{CA.format('token create')} --node {node.name} --allow 'ns/*/sa/*' -o json"
        )
        token = json.loads(answer)["token"]
        node.check(f"echo {token} | interceptor up --join-token-file -")

    @contextmanager
    def recorded(self, node: Box) -> Iterator[None]:
        """Every packet on the link between the two, as a node sees it: there must be tunnels, no question, no answer."""
        record = f"tcpdump -i {LINK} -U -s 0 -w /run/wire.pcap"
        node.check(
            "rm -f /run/wire.pcap; systemctl reset-failed wire 2>/dev/null || true; "
            f"systemd-run --quiet --unit=wire {record}"
        )
        node.wait_for("test -e /run/wire.pcap")
        yield
        node.check("systemctl stop wire")
        found = node.run(f"grep --text --quiet -e '{self.traffic.secret}' -e 'GET / HTTP' /run/wire.pcap")
        assert found.status == 1, "plaintext on the wire"
        assert "15008" in node.check("tcpdump -n -r /run/wire.pcap 2>/dev/null | grep 15008")


def _configure(node: Box, other: Box) -> None:
    """A network for each host, a route to the other's."""
    node.check("systemctl stop interceptor web client || true; interceptor down")
    number, others = NUMBERS[node.name], NUMBERS[other.name]
    text = CONFIG.format(name=node.name, number=number, authority=AUTHORITY)
    node.write("/etc/interceptor/config.yaml", text)
    # A route made by hand would be gone when the link was cut, or the machine rebooted.
    network = (
        *("[Match]", f"Name={LINK}", "[Network]"),
        *(f"Address={node.address}/24", f"Address=fd56::{number}/64"),
        *("[Route]", f"Destination=10.215.{others}.0/24", f"Gateway={other.address}"),
        *("[Route]", f"Destination=fd15:8:{others}::/64", f"Gateway=fd56::{others}"),
    )
    node.write(f"/etc/systemd/network/00-{LINK}.network", "\n".join((*network, "")))
    node.write("/etc/sysctl.d/scenario.conf", "net.ipv4.ip_forward=1\nnet.ipv6.conf.all.forwarding=1\n")
    node.check("networkctl reload && sysctl --quiet --load /etc/sysctl.d/scenario.conf")
    node.wait_for(f"ip route get 10.215.{others}.1 | grep -q {other.address}")
    node.wait_for(f"ip route get fd15:8:{others}::1 | grep -q fd56::{others}")
