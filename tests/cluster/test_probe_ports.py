"""The ports that a kubelet connects to are those of probes and hooks, by number or name; anything odd is none."""

from typing import Any

import pytest

from interceptor.cluster.cluster import Kind
from interceptor.cluster.pod import Pod
from interceptor.cluster.probe_ports import MAX_PORTS, probe_ports
from tests.cluster.api_objects import pod, read

PORTS = [{"name": "http", "containerPort": 8080}, {"name": "odd", "containerPort": "x"}]


def of(**container: Any) -> tuple[int, ...]:
    return probe_ports({"containers": [{"ports": PORTS, **container}]})


def test_ports_of_all_probes_and_hooks_are_found_sorted() -> None:
    spec = {
        "containers": [
            {
                "livenessProbe": {"httpGet": {"port": 9}},
                "readinessProbe": {"tcpSocket": {"port": "8"}},
                "startupProbe": {"grpc": {"port": 7}},
                "lifecycle": {"preStop": {"httpGet": {"port": 6}}, "postStart": {"tcpSocket": {"port": 9}}},
            }
        ],
        "initContainers": [{"startupProbe": {"httpGet": {"port": 5}}}],
    }
    assert probe_ports(spec) == (5, 6, 7, 8, 9)
    shown = pod("shop/web", "10.0.0.1")
    found = read(Kind.POD, {**shown, "spec": {**shown["spec"], **spec}})
    assert isinstance(found, Pod)
    assert found.probe_ports == (5, 6, 7, 8, 9)


def test_port_by_name_is_that_of_the_container() -> None:
    assert of(livenessProbe={"httpGet": {"port": "http"}}) == (8080,)


@pytest.mark.parametrize(
    "port", [None, 0, 65536, True, 1.5, "0", "99999", "123456", "\u0661", "nobody", "odd", {}]
)
def test_port_that_is_none_opens_nothing(port: object) -> None:
    assert of(readinessProbe={"httpGet": {"port": port}}) == ()


def test_probe_of_another_host_is_none_of_the_pods() -> None:
    assert of(livenessProbe={"httpGet": {"host": "192.0.2.1", "port": 80}}) == ()


@pytest.mark.parametrize(
    "spec", [None, [], {"containers": 1}, {"containers": [1]}, {"containers": [{"ports": 1}]}]
)
def test_spec_of_another_form_has_no_ports(spec: object) -> None:
    assert probe_ports(spec) == ()


def test_exec_probe_needs_no_port() -> None:
    assert of(livenessProbe={"exec": {"command": ["true"]}}, lifecycle=7) == ()


def test_ports_are_bounded() -> None:
    many = [{"livenessProbe": {"httpGet": {"port": port}}} for port in range(1, 101)]
    assert probe_ports({"containers": many}) == tuple(range(1, MAX_PORTS + 1))
