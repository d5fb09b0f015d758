"""Policies are parsed in processes of their own when they are many, and nothing else can come back from there."""

from __future__ import annotations

import io
import pickle
import subprocess
from typing import TYPE_CHECKING

import pytest

from interceptor.agent import parse_process, parsing
from interceptor.agent.parsing import NamedPart, Work, dump, parse_packed, parse_parts
from interceptor.errors import PolicyError
from interceptor.policy.documents import AuthorizationPolicy
from interceptor.policy.mesh_names import MeshNames
from interceptor.policy.packed_rules import PackedRules
from interceptor.strict_yaml import Part
from tests.policy.world import authorization, egress, exception, peer_authentication

if TYPE_CHECKING:
    from collections.abc import Sequence

MESH = MeshNames("istio-system", "example.org")
RULES = (
    "[{from: [{source: {principals: [cluster.local/ns/shop/sa/web], notIpBlocks: [10.0.0.0/8, 'fd00::/8']}}], "
    "to: [{operation: {ports: ['80']}}]}]"
)


def parts() -> list[NamedPart]:
    texts = [
        authorization("a", rules=RULES),
        peer_authentication(
            "b", selector="{matchLabels: {a: b}}", mtls="{mode: STRICT}", portLevelMtls="{80: {}}"
        ),
        exception("c", "INBOUND", cidrs="[192.0.2.7]"),
        egress("d", allow="[{ports: ['80']}]"),
        "kind: Nonsense\n",
        authorization("e", action="DENY"),
    ]
    return [NamedPart(f"{number}.yaml", Part(text, 5)) for number, text in enumerate(texts)]


def test_many_are_parsed_elsewhere_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    here = parse_parts(parts(), MESH)
    assert here[4].problems == (
        "4.yaml:5:1: a document needs apiVersion and kind, such as security.istio.io/v1 and PeerAuthentication",
    )
    monkeypatch.setattr(parsing, "FEW_CHARACTERS", 0)
    elsewhere = parse_parts(parts(), MESH)
    assert elsewhere == here
    (policy,) = elsewhere[0].documents
    assert isinstance(policy, AuthorizationPolicy)
    assert isinstance(policy.rules, PackedRules)
    assert str(policy.head.place) == "0.yaml:6"


def test_nothing_but_documents_is_read_from_a_process() -> None:
    file = io.BytesIO()
    dump(parse_packed(parts(), MESH), file)
    assert parsing._Documents(io.BytesIO(file.getvalue())).load() == parse_parts(parts(), MESH)
    for evil in (print, getattr, subprocess.Popen, parse_process.main):
        with pytest.raises(pickle.UnpicklingError, match="is no part of a document"):
            parsing._Documents(io.BytesIO(pickle.dumps(evil))).load()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["/bin/false"], "the process that parses policies ended with status 1, see the log"),
        (["/bin/sleep", "9"], "the policies were not parsed within 0.1 seconds"),
    ],
)
def test_process_that_fails_is_an_error(
    monkeypatch: pytest.MonkeyPatch, command: Sequence[str], message: str
) -> None:
    run = subprocess.run
    monkeypatch.setattr(parsing, "FEW_CHARACTERS", 0)
    monkeypatch.setattr(parsing, "DEADLINE_SECONDS", 0.1)
    monkeypatch.setattr(subprocess, "run", lambda _, **options: run(command, **options))
    with pytest.raises(PolicyError, match=message):
        parse_parts(parts(), MESH)


def test_without_processes_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    here = parse_parts(parts(), MESH)
    monkeypatch.setattr(parsing, "FEW_CHARACTERS", 0)
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert parse_parts(parts(), MESH) == here


def test_work_is_shared_out_evenly_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [NamedPart("a.yaml", Part("x" * 10, number)) for number in range(9)]
    shares = parsing._shares(many, 4)
    assert [len(share) for share in shares] == [3, 3, 3]
    assert [each for share in shares for each in share] == many


def test_process_gets_no_descriptors_but_its_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        seen.update(options)
        file = io.BytesIO()
        work: Work = pickle.loads(options["input"])  # type: ignore[arg-type]
        dump(parse_packed(work.parts, work.mesh), file)
        return subprocess.CompletedProcess(command, 0, file.getvalue())

    monkeypatch.setattr(parsing, "FEW_CHARACTERS", 0)
    monkeypatch.setattr(subprocess, "run", run)
    parse_parts(parts(), MESH)
    assert seen.keys().isdisjoint({"pass_fds", "close_fds"})  # closed unless somebody says otherwise
