"""The system service on node-b: stopped, rebooted in the middle of traffic, without power.

In this order: each scenario begins where the one before has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vagrant.scenarios.workloads import Traffic, addresses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vagrant.scenarios.box import Box

SECRET = "launch code 4711"
FINGERPRINT = "find /var/lib/interceptor/authority -name root.pem -exec sha256sum {} + | cut -c1-64"

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def traffic(installed: dict[str, Box]) -> Iterator[Traffic]:
    """Two workloads of node-b talk with each other."""
    node = installed["node-b"]
    node.check(
        "echo net.ipv4.ip_forward=1 >/etc/sysctl.d/scenario.conf && sysctl --quiet --load /etc/sysctl.d/scenario.conf"
    )
    traffic = Traffic(node, node, SECRET)
    traffic.start()
    yield traffic
    traffic.stop()


@pytest.fixture
def service(traffic: Traffic) -> Box:
    return traffic.web


@pytest.fixture
def stranger(service: Box, node_a: Box) -> Iterator[Box]:
    """node-a asks both workloads over the real link, in plaintext, for as long as the scenario lasts.

    Both, since a boot may give either the other's address.
    """
    asked = sorted(addresses(service).values())
    for address in asked:
        node_a.check(f"ip route replace {address} via {service.address}")
    probes = "; ".join(f"curl -s --max-time 1 http://{address}/ && echo ANSWERED" for address in asked)
    probe = f"while sleep 0.2; do {probes}; echo tried; done"
    node_a.check(
        f"systemd-run --quiet --unit=stranger --property=StandardOutput=truncate:/run/stranger sh -c '{probe}'"
    )
    yield node_a
    node_a.check("systemctl stop stranger")
    assert sorted(addresses(service).values()) == asked


def never_answered(stranger: Box) -> None:
    """The stranger has tried, and got nothing."""
    stranger.wait_for("grep tried /run/stranger")
    assert stranger.run(f"grep -c -e ANSWERED -e '{SECRET}' /run/stranger").output.strip() == "0"


def test_service_is_active_when_the_agent_is_ready(traffic: Traffic, service: Box) -> None:
    assert service.check("systemctl is-active interceptor").strip() == "active"
    traffic.wait()  # its workloads have their certificates then
    service.check("interceptor status")


def test_service_stopped_keeps_workloads_captured_and_running(
    traffic: Traffic, service: Box, stranger: Box
) -> None:
    pid = service.check("systemctl show --property=MainPID --value web")
    service.check("systemctl stop interceptor")
    assert service.check("systemctl show --property=MainPID --value web") == pid
    assert not traffic.flows(), "the client got an answer without an agent"
    never_answered(stranger)
    service.check("systemctl start interceptor")
    assert service.check("systemctl show --property=MainPID --value web") == pid
    traffic.wait()


def test_reboot_in_the_middle_of_traffic_lets_nothing_through(
    traffic: Traffic, service: Box, stranger: Box
) -> None:
    before = service.check(FINGERPRINT)
    traffic.wait()
    service.reboot()
    traffic.wait()  # by itself: nobody has logged in to start anything
    assert service.check(FINGERPRINT) == before
    never_answered(stranger)


def test_power_cut_in_the_middle_of_traffic_leaves_the_state_whole(
    traffic: Traffic, service: Box, stranger: Box
) -> None:
    service.check("sync")  # of what was installed; the agent's own state must not need it
    before = service.check(FINGERPRINT)
    service.cut_power()
    traffic.wait()
    assert service.check(FINGERPRINT) == before
    service.check("interceptor status")
    never_answered(stranger)
