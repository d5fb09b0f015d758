"""up, down, agent: what a person sees while it starts, and when it does not."""

from __future__ import annotations

import os
import signal
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from interceptor.cli import lifecycle
from interceptor.cli.lifecycle import _lines_for_people, _what_it_waits_for, _why_it_ended
from tests.harness.process import Journal, Program, is_alive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.harness.node import Node

real = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(90)]

LOG = b"""\
interceptor: the error of an earlier start
opening the certificate authority
2026-11-22 02:30:29,859 INFO interceptor.agent.node: ready
Traceback (most recent call last):
  File "x"
interceptor: port 15020 is taken
half a li"""


def test_lines_for_people_are_those_of_this_start(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_bytes(LOG)
    lines = _lines_for_people(log, LOG.index(b"opening"))
    assert lines == ["opening the certificate authority", "interceptor: port 15020 is taken"]
    assert _why_it_ended(lines, 1, log) == "port 15020 is taken"


def test_agent_that_ended_without_a_word_leads_to_its_log(tmp_path: Path) -> None:
    assert _why_it_ended(["starting"], -9, tmp_path / "agent.log") == (
        f"the agent ended with status -9: see {tmp_path}/agent.log"
    )


def test_agent_that_does_not_get_ready_says_what_it_waits_for() -> None:
    status = {"waiting_for": ["no certificate for default/web"], "authority": {"last_error": "it went away"}}
    assert _what_it_waits_for(status) == ", no certificate for default/web, it went away"
    assert _what_it_waits_for({**status, "authority": {"last_error": None}, "waiting_for": []}) == ""
    assert _what_it_waits_for(None) == ""


def test_start_that_takes_long_is_told_what_for_while_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = {"waiting_for": ["no certificate for default/web"], "authority": {"last_error": "it went away"}}
    statuses = iter([None, *[{**away, "ready": False}] * 8, {**away, "ready": True}])
    monkeypatch.setattr(lifecycle, "_status", lambda _: next(statuses))
    monkeypatch.setattr(lifecycle, "TELL_SECONDS", 0.05)
    (tmp_path / "agent.log").touch()
    told: list[str] = []
    session: Any = SimpleNamespace(progress=told.append)
    process: Any = SimpleNamespace(poll=lambda: None)
    assert lifecycle._wait_until_ready(session, process, tmp_path / "agent.log", 0)["ready"]
    assert told == ["  not ready yet, no certificate for default/web, it went away"]


class TestLifecycle:
    pytestmark = real

    def test_up_tells_what_it_does_and_may_be_repeated(self, make_node: Callable[..., Node]) -> None:
        node = make_node(start=False)
        first = node.up().check()
        told = [line.strip() for line in first.stderr.splitlines()]
        assert told[0].startswith("starting the agent (pid ")
        assert "compiling and loading the BPF programs" in told
        assert first.stdout.startswith("ready after ")
        assert first.stdout.count("\n") == 1
        again = node.up().check()
        assert again.stdout.startswith(f"already up: pid {node.agent_pid}, ")
        assert again.stderr == ""

    def test_up_tells_why_the_agent_did_not_start_and_not_why_it_once_did_not(
        self, make_node: Callable[..., Node]
    ) -> None:
        node = make_node(start=False)
        with socket.create_server(("127.0.0.1", node.slot.metrics_port)):
            failed = node.up()
        assert failed.status == 1
        assert failed.stdout == ""
        assert failed.stderr.splitlines()[-1].startswith("interceptor: cannot listen on 127.0.0.1:")
        (root,) = node.state_dir.glob("authority/issuers/*/root.pem")
        root.write_text("not a certificate")
        failed = node.up()
        assert failed.status == 1
        assert "root.pem" in failed.stderr.splitlines()[-1]

    def test_token_without_an_authority_to_join_is_refused_before_anything_is_done(
        self, make_node: Callable[..., Node]
    ) -> None:
        node = make_node(start=False)
        for command in ("up", "agent"):
            result = node.cli(command, "--join-token", "it1.some.token")
            assert result.status == 2
            assert "set authority.address" in result.stderr
        assert not node.state_dir.exists()

    def test_what_is_no_token_is_refused_before_anything_is_done(
        self, make_node: Callable[..., Node]
    ) -> None:
        node = make_node(start=False, authority={"address": "192.0.2.1:15012"})
        for token in (b"", b" \n", bytes(30000)):
            result = node.cli("up", "--join-token-file", "-", input_bytes=token)
            assert result.status == 2
            assert "is no token" in result.stderr
        result = node.cli("up", "--join-token-file", "-", "--join-token", "it1.some.token")
        assert result.status == 2
        assert "either by --join-token or by --join-token-file" in result.stderr
        assert not node.state_dir.exists()

    def test_up_of_a_node_that_has_not_joined_says_how(self, make_node: Callable[..., Node]) -> None:
        node = make_node(start=False, authority={"address": "192.0.2.1:15012"})
        failed = node.up()
        assert failed.status == 1
        assert f"'interceptor ca token create --node {node.name}'" in failed.stderr.splitlines()[-1]

    def test_interrupted_start_leaves_no_agent(self, make_node: Callable[..., Node], tmp_path: Path) -> None:
        node = make_node(start=False)
        up = Program([*node.command(), "up"], tmp_path / "up", Journal(tmp_path / "processes"))
        up.wait_for_output("compiling and loading")
        pid = int(up.stderr.partition("(pid ")[2].partition(",")[0])
        up.signal(signal.SIGINT)
        assert up.wait() == 130
        assert not is_alive(pid)

    def test_down_without_an_agent_may_be_repeated(self, make_node: Callable[..., Node]) -> None:
        node = make_node(start=False)
        for _ in range(2):
            result = node.down()
            assert result.status == 0
            assert result.stdout == "down: nothing is captured any more\n"
            assert "no agent answers" in result.stderr

    def test_down_keeps_the_state_if_asked_to(self, node: Node) -> None:
        (root,) = node.state_dir.glob("authority/issuers/*/root.pem")
        before = root.read_bytes()
        node.down("--keep-state").check()
        assert root.read_bytes() == before
        assert not node.run_dir.exists()
        node.down().check()
        assert not node.state_dir.exists()

    def test_agent_in_the_foreground_ends_on_sigterm(
        self, make_node: Callable[..., Node], tmp_path: Path
    ) -> None:
        node = make_node(start=False)
        command = [*node.command()[:1], "agent", "--config", str(node.config_path)]
        agent = Program(command, tmp_path / "agent", Journal(tmp_path / "processes"))
        agent.wait_for_output("ready: node")
        assert node.status()["pid"] == agent.pid
        os.kill(agent.pid, signal.SIGTERM)
        assert agent.wait() == 0
        assert "enrolled workloads stay captured" in agent.stderr

    def test_names_are_checked_by_the_agent_too(self, shared_node: Node) -> None:
        with pytest.raises(Exception, match="service account 'Web' is not a valid name"):
            shared_node.ask("run", pid=os.getpid(), service_account="Web", namespace="default", name=None)

    def test_exit_status_of_a_command_is_passed_on(self, shared_node: Node) -> None:
        run = ("run", "--service-account", "short", "--")
        assert shared_node.cli(*run, "sh", "-c", "exit 7").status == 7
        assert shared_node.cli(*run, "sh", "-c", "kill -9 $$").status == 128 + 9
        for command, status, message in (
            ("/no/such", 127, "interceptor: /no/such: command not found\n"),
            ("/etc/passwd", 126, "interceptor: /etc/passwd: Permission denied\n"),
        ):
            result = shared_node.cli(*run, command)
            assert (result.status, result.stderr) == (status, message)

    def test_options_of_the_command_are_its_own(self, shared_node: Node) -> None:
        result = shared_node.cli("run", "--service-account", "short", "echo", "-n", "--help", "--", "x")
        assert (result.status, result.stdout) == (0, "--help -- x")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ("enrol", "--service-account", "x", "--netns", "no-such"),
                "network namespace 'no-such' does not exist",
            ),
            (("enrol", "--service-account", "x", "--netns", "/etc/passwd"), "is not a network namespace"),
            (("enrol", "--service-account", "x", "--pid", "4194305"), "process 4194305 does not exist"),
            (
                ("enrol", "--service-account", "x", "--netns", "/proc/self/ns/net"),
                "the host's own network namespace",
            ),
            (("withdraw", "nobody"), "no workload is called 'nobody'"),
            (("withdraw", "../x"), "no workload is called '../x'"),
        ],
    )
    def test_what_cannot_be_done_is_one_line(
        self, shared_node: Node, arguments: tuple[str, ...], message: str
    ) -> None:
        result = shared_node.cli(*arguments)
        assert (result.status, result.stdout) == (1, "")
        assert result.stderr.startswith("interceptor: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
