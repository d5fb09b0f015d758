"""explain says what then happens, from inside and outside of the mesh, in every mode."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from interceptor import admin
from interceptor.agent.explain_ends import split_destination
from interceptor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness.namespace import Workload
    from tests.harness.node import Node

real = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(60)]

KEYS = ["source", "destination", "verdict", "transport", "reason", "steps"]
PORT = 7000


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("web:80", ("web", 80)),
        ("shop/web:65535", ("shop/web", 65535)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[fd00::1]:443", ("fd00::1", 443)),
    ],
)
def test_destination_is_a_host_and_a_port(text: str, parts: tuple[str, int]) -> None:
    assert split_destination(text) == parts


@pytest.mark.parametrize(
    "text",
    ["", ":", "web", "web:", ":80", "web:0", "web:65536", "web:x", "web:٣", "fd00::1:80", "web:-1", "a:b:80"],
)
def test_destination_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        split_destination(text)


@pytest.fixture
def listening(shared_server: Workload) -> Iterator[Workload]:
    """The server, with somebody listening on PORT for both IP versions."""
    with shared_server.listen(socket.AF_INET, PORT), shared_server.listen(socket.AF_INET6, PORT):
        yield shared_server


def explain(node: Node, source: str, destination: str) -> dict[str, Any]:
    answer: dict[str, Any] = node.ask("explain", source=source, destination=destination)
    assert list(answer) == KEYS
    assert all(list(step) == ["step", "ok", "evidence"] for step in answer["steps"])
    return answer


def steps(answer: dict[str, Any]) -> list[str]:
    return [step["step"] for step in answer["steps"] if step["step"] != "last seen"]


@pytest.mark.parametrize("form", ["{name}", "default/{name}", "{name}.default", "{ipv4}", "[{ipv6}]"])
class TestPermitted:
    pytestmark = real

    def test_every_form_of_a_destination_is_found(
        self, shared_node: Node, shared_client: Workload, listening: Workload, form: str
    ) -> None:
        host = form.format(name=listening.name, ipv4=listening.ipv4, ipv6=listening.ipv6)
        answer = explain(shared_node, shared_client.name, f"{host}:{PORT}")
        assert (answer["verdict"], answer["transport"], answer["reason"]) == ("permit", "mutual_tls", None)
        assert all(step["ok"] for step in answer["steps"] if step["step"] != "last seen")
        assert steps(answer) == [
            "source",
            "destination",
            "capture",
            "mode",
            "outbound policy",
            "certificate",
            "certificate",
            "inbound capture",
            "mode",
            "inbound policy",
            "application",
        ]


@pytest.mark.parametrize(
    ("source", "destination", "verdict", "reason"),
    [
        ("client", "server:9", "denial", "destination_refused"),
        ("client", "server:15008", "denial", "reserved_port"),
        ("client", "{slot_ipv4}:80", "denial", "unknown_destination"),
        ("client", "[{slot_ipv6}]:80", "denial", "unknown_destination"),
        ("client", "8.8.8.8:53", "untouched", None),
        ("client", "127.0.0.1:80", "untouched", None),
        ("client", "[::1]:80", "untouched", None),
        ("client", "client:80", "untouched", None),
        ("192.0.2.1", "server:80", "denial", "plaintext_refused"),
        ("2001:db8::1", "[{server_ipv6}]:80", "denial", "plaintext_refused"),
        ("192.0.2.1", "server:15008", "denial", "peer_without_certificate"),
        ("192.0.2.1", "192.0.2.2:80", "untouched", None),
        ("{client_ipv4}", "server:9", "denial", "destination_refused"),
    ],
)
class TestNotPermitted:
    pytestmark = real

    def test_verdict_and_reason(
        self,
        shared_node: Node,
        shared_client: Workload,
        shared_server: Workload,
        source: str,
        destination: str,
        verdict: str,
        reason: str | None,
    ) -> None:
        values = {
            "slot_ipv4": str(shared_node.slot.mesh_ipv4[77]),
            "slot_ipv6": str(shared_node.slot.mesh_ipv6[77]),
            "server_ipv6": shared_server.ipv6,
            "client_ipv4": shared_client.ipv4,
        }
        answer = explain(shared_node, source.format(**values), destination.format(**values))
        assert (answer["verdict"], answer["reason"], answer["transport"]) == (verdict, reason, None)
        failed = [step for step in answer["steps"] if not step["ok"] and step["step"] != "last seen"]
        assert len(failed) == (verdict == "denial")


@pytest.mark.parametrize(
    ("source", "destination", "message"),
    [
        ("nobody", "server:80", "no workload is called 'nobody'"),
        ("client", "nobody:80", "no workload is called 'nobody'"),
        ("", "server:80", "no workload is called ''"),
        ("client", "server", "is not a destination"),
        ("client", "[fe80::1%eth0]:80", "no workload is called"),
    ],
)
class TestRefused:
    pytestmark = real

    def test_what_cannot_be_meant_is_an_error(
        self, shared_node: Node, shared_client: Workload, source: str, destination: str, message: str
    ) -> None:
        del shared_client
        with pytest.raises(admin.AgentError, match=message):
            shared_node.ask("explain", source=source, destination=destination)


class TestEvidence:
    pytestmark = real

    def test_last_connection_that_was_made_is_evidence(
        self, shared_node: Node, shared_client: Workload, shared_server: Workload
    ) -> None:
        mark = shared_node.mark()
        with shared_server.listen() as listener:
            address, port = listener.getsockname()
            with shared_client.connect((address, port)):
                listener.accept()[0].close()
        pair = shared_node.wait_for_pair(since=mark)
        last = explain(shared_node, "client", f"{address}:{port}")["steps"][-1]
        assert last["step"] == "last seen"
        assert last["evidence"] in [f"at {record['time']}: permitted, TLSv1.3" for record in pair]

    def test_table_shows_each_step_and_the_verdict(
        self, shared_node: Node, shared_client: Workload, shared_server: Workload
    ) -> None:
        del shared_client
        result = shared_node.cli("explain", "192.0.2.1", "server:80").check()
        lines = result.stdout.splitlines()
        assert lines[0] == f"192.0.2.1 -> {shared_server.ipv4}:80"
        assert lines[1].split()[:2] == ["ok", "source"]
        assert lines[-1] == "  => denied, plaintext_refused"
        assert max(map(len, lines)) < 110
        assert "\x1b" not in result.stdout
        parsed = json.loads(shared_node.cli("explain", "192.0.2.1", "server:80", "-o", "json").check().stdout)
        assert parsed["reason"] == "plaintext_refused"

    @pytest.mark.parametrize(
        ("mode", "from_inside", "from_outside"),
        [("PERMISSIVE", "mutual_tls", "none"), ("DISABLE", "none", "none")],
    )
    def test_mode_decides(
        self, make_node: Callable[..., Node], mode: str, from_inside: str, from_outside: str
    ) -> None:
        node = make_node(mode=mode)
        server = node.workload("server")
        node.workload("client")
        with server.listen(port=PORT):
            for source, transport in (("client", from_inside), ("192.0.2.1", from_outside)):
                answer = explain(node, source, f"server:{PORT}")
                assert (answer["verdict"], answer["transport"]) == ("permit", transport)

    def test_names_mean_what_they_mean_to_the_source(self, shared_node: Node) -> None:
        with (
            shared_node.workload_for_a_while("twin", namespace="shop") as own,
            shared_node.workload_for_a_while("twin") as other,
            shared_node.workload_for_a_while("visitor", namespace="shop"),
        ):
            assert explain(shared_node, "visitor", "twin:80")["destination"] == f"{own.ipv4}:80"
            assert explain(shared_node, "visitor", "twin.default:80")["destination"] == f"{other.ipv4}:80"
            with pytest.raises(admin.AgentError, match="'twin' may mean default/twin, shop/twin"):
                explain(shared_node, "192.0.2.1", "twin:80")

    def test_damaged_workload_is_a_step_that_fails(self, shared_node: Node, shared_client: Workload) -> None:
        with shared_node.workload_for_a_while("damaged") as damaged:
            damaged.run("ip", "rule", "del", "priority", "15008").check()
            answer = explain(shared_node, shared_client.name, "damaged:80")
        failed = next(step for step in answer["steps"] if step["step"] == "inbound capture")
        assert not failed["ok"]
        assert "were changed" in failed["evidence"]
