"""The system service on node-b: stopped, rebooted in the middle of traffic, without power.

In this order: each scenario begins where the one before has ended.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vagrant.scenarios.box import Box

SECRET = "launch code 4711"
# Two workloads as services of their own: a server, and a client that asks it every half second.
SETUP = f"""
mkdir -p /srv/web && echo '{SECRET}' >/srv/web/index.html
unit() {{ printf '%s\\n' '[Unit]' 'Wants=interceptor.service' 'After=interceptor.service' '[Service]' "ExecStart=$2" \\
    'Restart=always' 'RestartSec=1' '[Install]' 'WantedBy=multi-user.target' >/etc/systemd/system/$1.service; }}
printf '%s\\n' '#!/bin/sh' \\
    'while sleep 0.5; do curl -sS --max-time 5 http://web/ >/run/answer && date +%s >/run/answered; done' >/usr/local/bin/ask
chmod 0755 /usr/local/bin/ask
unit web '/usr/local/bin/interceptor run --service-account web --name web -- python3 -m http.server 80 --bind :: --directory /srv/web'
unit client '/usr/local/bin/interceptor run --service-account client --name client -- /usr/local/bin/ask'
echo net.ipv4.ip_forward=1 >/etc/sysctl.d/scenario.conf
sysctl --quiet --load /etc/sysctl.d/scenario.conf
systemctl daemon-reload
systemctl enable --now web client
"""
ANSWERED = f"rm -f /run/answered; for i in $(seq 50); do test -e /run/answered && break; sleep 0.2; done; grep -q '{SECRET}' /run/answer"
WEB_ADDRESS = "interceptor workloads -o json"
FINGERPRINT = "find /var/lib/interceptor/authority -name root.pem -exec sha256sum {} + | cut -c1-64"

pytestmark = pytest.mark.service


def address_of(box: Box, name: str) -> str:
    """The IPv4 address of a workload."""
    workloads = json.loads(box.check(WEB_ADDRESS))
    [addresses] = [each["addresses"] for each in workloads if each["name"] == name]
    return str(next(address for address in addresses if ":" not in address))


@pytest.fixture(scope="module")
def service(installed: dict[str, Box]) -> Iterator[Box]:
    """node-b with the two workloads."""
    node = installed["node-b"]
    node.check(SETUP)
    yield node
    node.check(
        "systemctl disable --now web client; rm /etc/systemd/system/web.service /etc/systemd/system/client.service"
    )
    node.check("systemctl daemon-reload")


@pytest.fixture
def stranger(service: Box, node_a: Box) -> Iterator[Box]:
    """node-a asks the web server over the real link, in plaintext, for as long as the scenario lasts."""
    web = address_of(service, "web")
    node_a.check(f"ip route replace {web} via {service.address}")
    probe = f"while sleep 0.2; do curl -s --max-time 1 http://{web}/ && echo ANSWERED; echo tried; done"
    node_a.check(
        f"systemd-run --quiet --unit=stranger --property=StandardOutput=truncate:/run/stranger sh -c '{probe}'"
    )
    yield node_a
    node_a.check("systemctl stop stranger")


def never_answered(stranger: Box) -> None:
    """The stranger has tried, and got nothing."""
    tried = stranger.wait_for("grep tried /run/stranger")
    assert tried
    assert stranger.run(f"grep -c -e ANSWERED -e '{SECRET}' /run/stranger").output.strip() == "0"


def test_service_is_active_when_the_agent_is_ready(service: Box) -> None:
    assert service.check("systemctl is-active interceptor").strip() == "active"
    service.check("interceptor status")
    service.wait_for(ANSWERED)


def test_service_stopped_keeps_workloads_captured_and_running(service: Box, stranger: Box) -> None:
    pid = service.check("systemctl show --property=MainPID --value web")
    service.check("systemctl stop interceptor")
    assert service.check("systemctl show --property=MainPID --value web") == pid
    assert service.run(ANSWERED).status != 0, "the client got an answer without an agent"
    never_answered(stranger)
    service.check("systemctl start interceptor", timeout=330)
    assert service.check("systemctl show --property=MainPID --value web") == pid
    service.wait_for(ANSWERED)


def test_reboot_in_the_middle_of_traffic_lets_nothing_through(service: Box, stranger: Box) -> None:
    before = service.check(FINGERPRINT)
    service.wait_for(ANSWERED)
    service.reboot()
    service.wait_for(ANSWERED)  # by itself: nobody has logged in to start anything
    assert service.check(FINGERPRINT) == before
    never_answered(stranger)


def test_power_cut_in_the_middle_of_traffic_leaves_the_state_whole(service: Box, stranger: Box) -> None:
    service.check("sync")  # of what was installed; the agent's own state must not need it
    before = service.check(FINGERPRINT)
    service.cut_power()
    service.wait_for(ANSWERED)
    assert service.check(FINGERPRINT) == before
    service.check("interceptor status")
    never_answered(stranger)
