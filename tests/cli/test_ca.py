"""interceptor ca: the commands on a real authority in a directory; what they print, and what they refuse."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import trio

from interceptor.authority.reports import NodeReport
from interceptor.authority.tokens import Token
from interceptor.authority_store import AuthorityStore
from interceptor.cli.ca import ca
from interceptor.cluster.cluster import Kind
from interceptor.identity.spiffe_id import TrustDomain
from tests.cli.test_errors import cli
from tests.harness.process import CLI, read_line
from tests.kubernetes.api_server import ApiServer, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.process import Result

ALLOW = ("--allow", "ns/shop/sa/*")


class Authority:
    """An authority that commands are run on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def run(self, *arguments: str) -> Result:
        """`interceptor ca ARGUMENTS` on it."""
        return cli("ca", *arguments, "--dir", str(self.directory))

    def ok(self, *arguments: str) -> str:
        """What a command that works prints."""
        return self.run(*arguments).check().stdout

    def data(self, *arguments: str) -> Any:
        """The same as JSON."""
        return json.loads(self.ok(*arguments, "-o", "json"))

    def refused(self, *arguments: str, status: int = 1) -> str:
        """The one line of a command that does not."""
        result = self.run(*arguments)
        assert result.status == status, result
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("interceptor: ")
        return line

    def report(self, *issuers: str) -> None:
        """Let the node `a` confirm what it was sent."""
        now = datetime.now(UTC)
        with closing(AuthorityStore.open(self.directory, None)) as store:
            document = store.trust_document()
            report = NodeReport(document.bundle_hash, document.document_hash, issuers, (), now)
            store.report("a", report, now)

    def join(self, name: str) -> None:
        """Let a node join."""
        token = self.data("token", "create", "--node", name, *ALLOW)["token"]
        with closing(AuthorityStore.open(self.directory, None)) as store:
            store.redeem_token(token, name, datetime.now(UTC))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "authority")
    authority.ok("init", "--trust-domain", "prod.example")
    return authority


def test_init_makes_an_authority_and_says_by_which_root_it_is_known(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "deeper" / "authority")
    shown = authority.ok("init", "--trust-domain", "prod.example")
    status = authority.data("status")
    assert f"authority of prod.example made in {authority.directory}" in shown
    assert f"SHA-256 {status['root']['fingerprint']}" in shown
    assert (tmp_path / "deeper").stat().st_mode & 0o777 == 0o700


def test_init_in_a_directory_that_others_may_look_into_is_no_fault(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Authority(tmp_path / "authority").ok("init")
    assert (tmp_path / "authority").stat().st_mode & 0o777 == 0o700


def test_init_where_no_directory_can_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot make the directory" in Authority(tmp_path / "file" / "authority").refused("init")


def test_init_takes_the_place_and_trust_domain_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"trustDomain: conf.example\npaths:\n  state: {tmp_path / 'state'}\n")
    shown = cli("--config", str(config), "ca", "init").check().stdout
    assert f"authority of conf.example made in {tmp_path / 'state' / 'authority'}" in shown
    assert "conf.example" in cli("--config", str(config), "ca", "status").check().stdout


def test_init_where_an_authority_is_already_is_refused(authority: Authority) -> None:
    assert "is not empty" in authority.refused("init")


def test_init_with_a_bad_trust_domain_is_refused(tmp_path: Path) -> None:
    assert "trust domain 'A b'" in Authority(tmp_path / "authority").refused(
        "init", "--trust-domain", "A b", status=2
    )
    assert not (tmp_path / "authority").exists()


@pytest.mark.parametrize(
    "command", ["status", "bundle", "nodes", "revocations", "rotate status", "token list"]
)
def test_command_without_an_authority_says_how_to_make_one(tmp_path: Path, command: str) -> None:
    (tmp_path / "authority").mkdir(0o700)
    assert "interceptor ca init" in Authority(tmp_path / "authority").refused(*command.split())


def test_status_shows_certificates_rotation_and_counts(authority: Authority) -> None:
    authority.join("a")
    authority.ok("token", "create", "--node", "b", *ALLOW)
    data = authority.data("status")
    assert list(data) == [
        "trust_domain",
        "directory",
        "root",
        "root_key",
        "intermediate",
        "rotation",
        "waiting_for",
        "nodes",
        "tokens_unused",
        "revocations",
        "federated",
        "aliases",
        "bundle_hash",
    ]
    assert (data["root_key"], data["rotation"], data["nodes"], data["tokens_unused"]) == (
        "present",
        "stable",
        1,
        1,
    )
    table = authority.ok("status")
    assert "root          valid for 36" in table
    assert "nodes         1, and 1 tokens to join with" in table


def test_token_is_shown_once_with_the_command_to_run(authority: Authority) -> None:
    result = authority.run("token", "create", "--node", "a", "--ttl", "1h", *ALLOW).check()
    text = result.stdout.strip()
    assert Token.parse(text).root_fingerprint == authority.data("status")["root"]["fingerprint"]
    assert f"echo {text} | sudo interceptor up --join-token-file -" in result.stderr
    (row,) = authority.data("token", "list")
    assert list(row) == ["id", "node", "state", "created_at", "expires_at", "used_at", "allowed"]
    assert (row["node"], row["state"], row["allowed"]) == ("a", "unused", ["ns/shop/sa/*"])
    assert text.rpartition(".")[2] not in authority.ok("token", "list")


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("--node", "a"), 2, "give --allow"),
        (("--node", "a", "--ttl", "soon", *ALLOW), 2, "'soon' is not a duration"),
        (("--node", "a", "--ttl", "1000h", *ALLOW), 2, "out of range"),
        (("--node", "A", *ALLOW), 2, "node name 'A'"),
        (("--node", "a", "--allow", "web"), 2, "pattern 'web'"),
    ],
)
def test_token_that_makes_no_sense_is_refused(
    authority: Authority, arguments: tuple[str, ...], status: int, why: str
) -> None:
    assert why in authority.refused("token", "create", *arguments, status=status)
    assert authority.data("token", "list") == []
    assert "there is no token" in authority.ok("token", "list")


def test_nodes_shows_who_joined_and_who_believes_what_is_current(authority: Authority) -> None:
    assert "no node has joined" in authority.ok("nodes")
    authority.join("a")
    (row,) = authority.data("nodes")
    assert list(row) == [
        "node",
        "state",
        "workloads",
        "reported_at",
        "joined_at",
        "allowed",
        "bundle_hash",
        "issuers",
    ]
    states = [row["state"]]
    authority.report()
    states.append(authority.data("nodes")[0]["state"])
    authority.ok("alias", "old.example")
    states.append(authority.data("nodes")[0]["state"])
    authority.ok("revoke", "spiffe://prod.example/node/a")
    states.append(authority.data("nodes")[0]["state"])
    assert states == ["silent", "current", "behind", "revoked"]
    assert "ns/shop/sa/*" in authority.ok("nodes")


def test_node_is_allowed_something_else_and_removed(authority: Authority) -> None:
    authority.join("a")
    assert authority.ok("node", "allow", "a", "--allow", "ns/bank/sa/db") == "a may ask for ns/bank/sa/db\n"
    assert authority.data("nodes")[0]["allowed"] == ["ns/bank/sa/db"]
    assert "give --allow" in authority.refused("node", "allow", "a", status=2)
    authority.ok("node", "remove", "a")
    assert authority.data("nodes") == []
    assert "no node is called 'a'" in authority.refused("node", "remove", "a")


def test_rotation_goes_step_by_step_and_names_who_lags(authority: Authority) -> None:
    authority.join("a")
    old = authority.data("status")["root"]["fingerprint"]
    assert "next step is prepare" in authority.refused("rotate", "retire")
    assert authority.ok("rotate", "prepare").startswith("prepared: ")
    new = authority.data("rotate", "status")["other_root"]
    authority.ok("rotate", "distribute")
    assert "not ready: a (has not reported yet)" in authority.refused("rotate", "activate")
    assert "waits for a: has not reported yet" in authority.ok("rotate", "status")
    assert "waiting for a" in authority.ok("status")
    authority.report(old)
    authority.ok("rotate", "activate")
    authority.report(new, old)
    assert "a (still has certificates of the old root" in authority.refused("rotate", "retire")
    authority.report(new)
    assert authority.ok("rotate", "retire").startswith("stable: ")
    data = authority.data("rotate", "status")
    assert list(data) == ["phase", "since", "active_root", "other_root", "next_step", "waiting_for"]
    assert (data["active_root"], data["other_root"], data["next_step"]) == (new, None, "prepare")


def test_rotation_is_aborted(authority: Authority) -> None:
    authority.ok("rotate", "prepare")
    assert authority.ok("rotate", "abort").startswith("stable: ")


def test_intermediate_is_rotated_with_the_root_key_only(authority: Authority) -> None:
    before = authority.data("status")["intermediate"]["serial_number"]
    shown = authority.ok("rotate", "intermediate")
    after = authority.data("status")["intermediate"]["serial_number"]
    assert before != after
    assert f"serial {after}" in shown
    (key,) = authority.directory.rglob("root.key")
    key.unlink()
    assert "without the root key" in authority.refused("rotate", "intermediate")
    assert authority.data("status")["root_key"] == "elsewhere"


def test_revocation_is_listed_until_it_is_taken_back(authority: Authority) -> None:
    web = "spiffe://prod.example/ns/shop/sa/web"
    assert authority.ok("revoke", web, "--why", "key copied") == f"identity {web} is revoked\n"
    assert authority.ok("revoke", "0A:1B:00:00:00:00:00:00:2C") == "serial a1b0000000000002c is revoked\n"
    rows = authority.data("revocations")
    assert [(row["kind"], row["value"], row["why"]) for row in rows] == [
        ("serial", "a1b0000000000002c", ""),
        ("identity", web, "key copied"),
    ]
    assert "key copied" in authority.ok("revocations")
    authority.ok("unrevoke", web)
    authority.ok("unrevoke", "A1B0000000000002C")
    assert authority.ok("revocations") == "nothing is revoked\n"
    assert "is not revoked" in authority.refused("unrevoke", web)
    assert "neither a SPIFFE ID nor a serial number" in authority.refused("revoke", "web", status=2)


def test_serial_number_as_a_table_shows_it_revokes_nothing_and_says_so(authority: Authority) -> None:
    said = authority.refused("revoke", "25ed5203", status=2)
    assert "25ed5203 is only the end of a serial number" in said
    assert "interceptor certificates -o json" in said
    assert authority.data("revocations") == []


def test_two_authorities_federate_with_each_others_bundle(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    other.ok("init", "--trust-domain", "other.example")
    file = tmp_path / "other.pem"
    file.write_text(other.ok("bundle"))
    assert "identities of other.example are believed" in authority.ok("federate", str(file))
    assert authority.data("status")["federated"] == ["other.example"]
    assert "our own trust domain" in other.refused("federate", str(file))
    authority.ok("unfederate", "other.example")
    assert "there is no trust bundle of other.example" in authority.refused("unfederate", "other.example")


def test_bundle_that_is_none_is_refused(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "bundle.pem"
    assert "cannot read" in authority.refused("federate", str(file))
    file.write_text("junk")
    assert "not a list of PEM" in authority.refused("federate", str(file), "--trust-domain", "x")
    assert f"{file}: it is not a list of PEM" in authority.refused("federate", str(file))
    file.write_text("x" * 300_000)
    assert "it is no trust bundle" in authority.refused("federate", str(file))


def test_alias_is_shown_until_it_is_taken_back(authority: Authority) -> None:
    authority.ok("alias", "old.example")
    authority.ok("alias", "older.example")
    assert authority.data("status")["aliases"] == ["old.example", "older.example"]
    authority.ok("unalias", "old.example")
    assert authority.data("status")["aliases"] == ["older.example"]
    assert "old.example is no alias" in authority.refused("unalias", "old.example")
    assert "alias" in authority.refused("alias", "prod.example")


def test_directory_that_is_not_there_is_told_with_what_makes_an_authority(tmp_path: Path) -> None:
    for directory in (tmp_path / "none", tmp_path / "none" / "deeper"):
        said = Authority(directory).refused("status")
        assert f"there is no authority in {directory}" in said
        assert "'interceptor ca init'" in said


def test_command_that_holds_private_keys_leaves_no_core_file(tmp_path: Path) -> None:
    get_dumpable, set_dumpable = 3, 4
    prctl = ctypes.CDLL(None).prctl
    assert prctl(set_dumpable, 1, 0, 0, 0) == 0
    try:
        Authority(tmp_path / "authority").ok("init")
        assert prctl(get_dumpable, 0, 0, 0, 0) == 0
    finally:
        prctl(set_dumpable, 1, 0, 0, 0)


def test_passphrase_from_a_file_encrypts_the_keys_and_opens_them(tmp_path: Path) -> None:
    authority, file = Authority(tmp_path / "authority"), tmp_path / "pass"
    file.write_text("correct horse\n")
    file.chmod(0o600)
    given = ("--passphrase-file", str(file))
    authority.ok("init", *given)
    assert all(b"ENCRYPTED" in key.read_bytes() for key in authority.directory.rglob("*.key"))
    assert "is encrypted: give the passphrase with --passphrase-file" in authority.refused("status")
    authority.ok("status", *given)
    authority.ok("token", "create", "--node", "a", *ALLOW)  # needs no key
    file.write_text("wrong")
    assert "cannot be opened with this passphrase: check --passphrase-file" in authority.refused(
        "status", *given
    )


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"x", 0o644, "is open to group or others (mode 0644): chmod 600"),
        (b"", 0o600, "is no passphrase"),
        (b"\nx", 0o600, "is no passphrase"),
        (b"x" * 1025, 0o600, "is no passphrase"),
    ],
)
def test_passphrase_file_that_is_none_is_refused(tmp_path: Path, content: bytes, mode: int, why: str) -> None:
    file = tmp_path / "pass"
    file.write_bytes(content)
    file.chmod(mode)
    assert why in Authority(tmp_path / "authority").refused("init", "--passphrase-file", str(file))
    assert not (tmp_path / "authority").exists()


def test_passphrase_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert "cannot read the passphrase file" in Authority(tmp_path / "a").refused(
        "init", "--passphrase-file", missing
    )


def served(directory: Path, address: str) -> subprocess.Popen[bytes]:
    """A service in a process of its own, as it forbids core dumps and logs."""
    command = [CLI, "ca", "serve", "--listen", address, "--dir", directory]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_serve_answers_until_it_is_told_to_stop(authority: Authority) -> None:
    address = free_address()
    with served(authority.directory, address) as process:
        try:
            assert process.stderr is not None
            line = read_line(process.stderr.fileno(), 15.0)
            assert line == f"serving the authority of prod.example on {address}\n"
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port)), 5):
                pass
            authority.join("a")
            assert authority.data("status")["nodes"] == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert (authority.directory / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_serve_on_an_address_that_is_taken_is_refused(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with served(authority.directory, address) as process:
            _, stderr = process.communicate(timeout=15)
    assert process.returncode == 1
    (line,) = stderr.decode().splitlines()
    assert address in line


def test_serve_without_an_authority_is_refused(tmp_path: Path) -> None:
    (tmp_path / "authority").mkdir(0o700)
    with served(tmp_path / "authority", free_address()) as process:
        _, stderr = process.communicate(timeout=15)
    assert process.returncode == 1
    assert b"interceptor ca init" in stderr


def test_serve_on_what_is_no_address_is_wrong_usage(authority: Authority) -> None:
    assert "is not an address and port" in authority.refused("serve", "--listen", "here", status=2)


def every_command(group: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(group, click.Group):
        for name, command in sorted(group.commands.items()):
            yield from every_command(command, *path, name)


@pytest.mark.parametrize("path", list(every_command(ca, "ca")), ids=" ".join)
def test_help_of_every_command_has_examples_and_fits_the_line(path: tuple[str, ...]) -> None:
    shown = cli(*path, "--help").check().stdout
    assert f"interceptor {' '.join(path)}" in shown.partition("Examples:\n")[2]
    assert max(map(len, shown.splitlines())) < 110


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kubernetes", "http://10.0.0.1"], "would be asked in plaintext"),
        (["--kubernetes", "https://10.0.0.1:6443"], "cannot be verified without its CA's certificate"),
        (["--kubernetes", "pod"], "this is no pod: give the URL of the API server with --kubernetes"),
        (["--kubernetes", "pod", "--kubernetes-ca-file", "ca.crt"], "belong to --kubernetes URL"),
        (["--kubernetes-token-file", "token"], "belong to --kubernetes URL"),
        (["--agents", "mesh/agent"], "--agents asks the Kubernetes API about tokens: give --kubernetes too"),
        (
            ["--kubernetes", "http://127.0.0.1:1", "--agents", "agent"],
            "'agent' is not a service account, expected",
        ),
        (["--kubernetes", "http://127.0.0.1:1", "--agents", "mesh/"], "service account is empty"),
    ],
)
def test_serve_for_a_cluster_that_cannot_be_asked_is_wrong_usage(
    authority: Authority, words: list[str], message: str
) -> None:
    assert message in authority.refused("serve", *words, status=2)


def test_serve_for_a_cluster_without_a_usable_ca_file_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "ca.crt").write_text("none")
    words = ["--kubernetes", "https://127.0.0.1:1", "--kubernetes-ca-file", str(tmp_path / "ca.crt")]
    assert str(tmp_path / "ca.crt") in authority.refused("serve", *words, status=1)


def test_serve_for_a_cluster_lists_and_watches_its_pods_and_namespaces(authority: Authority) -> None:
    async def serve_until_both_are_watched() -> None:
        command = [CLI, "ca", "serve", "--listen", free_address(), "--dir", authority.directory]
        async with running(ApiServer()) as api:
            words = [*map(str, command), "--kubernetes", api.url, "--agents", "mesh/agent"]
            process = await trio.lowlevel.open_process(words, stderr=subprocess.DEVNULL)
            try:
                with trio.fail_after(15):
                    while not (api.watches(Kind.POD) and api.watches(Kind.NAMESPACE)):
                        assert process.poll() is None
                        await trio.sleep(0.05)
                process.terminate()
                with trio.fail_after(10):
                    assert await process.wait() == 0
            finally:
                process.kill()

    trio.run(serve_until_both_are_watched)


def aged(tmp_path: Path, days: int, *, root_key: bool = False) -> Authority:
    """An authority that was made so long ago, and whose root key was taken away."""
    authority = Authority(tmp_path / "authority")
    made = datetime.now(UTC) - timedelta(days=days)
    AuthorityStore.create(authority.directory, TrustDomain("prod.example"), made).close()
    (key,) = authority.directory.rglob("root.key")
    if not root_key:
        key.unlink()
    return authority


@pytest.mark.parametrize(("days", "state", "status"), [(10, "valid", 0), (200, "due", 0), (300, "late", 1)])
def test_status_says_how_to_renew_an_intermediate_whose_root_key_is_elsewhere(
    tmp_path: Path, days: int, state: str, status: int
) -> None:
    authority = aged(tmp_path, days)
    table, data = authority.run("status"), authority.run("status", "-o", "json")
    assert (table.status, data.status) == (status, status)
    assert json.loads(data.stdout)["intermediate"]["state"] == state
    by_hand = "put root.key back into its directory, run 'interceptor ca rotate intermediate'"
    assert (f"{state}: {by_hand}" in table.stdout) is (state != "valid")


def test_status_of_an_intermediate_whose_root_key_is_there_changes_nothing(tmp_path: Path) -> None:
    authority = aged(tmp_path, 300, root_key=True)
    before = [path.read_bytes() for path in sorted(authority.directory.rglob("*.crt"))]
    assert "late: the service renews it by itself" in authority.run("status").stdout
    assert [path.read_bytes() for path in sorted(authority.directory.rglob("*.crt"))] == before
    authority.ok("rotate", "intermediate")
    assert authority.data("status")["intermediate"]["state"] == "valid"


def test_status_of_an_intermediate_that_has_ended_says_how_to_go_on(tmp_path: Path) -> None:
    result = aged(tmp_path, 400).run("status")
    assert result.status == 1
    assert "expired: put root.key back into its directory" in result.stdout


def test_tokens_that_an_activation_makes_worthless_are_named(authority: Authority) -> None:
    for node in ("b", "a"):
        authority.ok("token", "create", "--node", node, *ALLOW)
    for step in ("prepare", "distribute"):
        assert authority.run("rotate", step).check().stderr == ""
    said = authority.run("rotate", "activate").check().stderr
    assert said.endswith("let nobody in any more, make others for: a, b\n")


def test_status_of_a_root_that_was_not_replaced_in_time_fails(tmp_path: Path) -> None:
    result = aged(tmp_path, 2800, root_key=True).run("status")
    assert result.status == 1
    assert "late: begin with 'interceptor ca rotate prepare'" in result.stdout


@pytest.mark.parametrize("address", ["0.0.0.0:15022", "[::]:15022", "192.0.2.1:15022"])
def test_metrics_that_others_could_reach_are_served_only_when_asked_for(
    authority: Authority, address: str
) -> None:
    said = authority.refused("serve", "--metrics", address, status=2)
    assert "can be reached by others" in said
    assert "--metrics-public" in said


def test_return_period_out_of_bounds_is_refused(authority: Authority) -> None:
    assert "out of range" in authority.refused("serve", "--return-period", "721h", status=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("init", "--trust-domain", ""),
        ("token", "create", "--node", "../x", *ALLOW),
        ("node", "allow", "a", "--allow", "*"),
        ("revoke", "spiffe://"),
        ("revoke", "spiffe://prod.example/ns/shop/sa/web", "--why", "a\nb"),
        ("unrevoke", "nothing"),
        ("alias", "A!"),
        ("unalias", "A!"),
        ("unfederate", "A!"),
    ],
)
def test_argument_that_cannot_be_right_is_wrong_usage_and_leaves_no_line(
    authority: Authority, arguments: tuple[str, ...]
) -> None:
    before = (authority.directory / "audit.jsonl").read_text()
    authority.refused(*arguments, status=2)
    assert (authority.directory / "audit.jsonl").read_text() == before


def test_rotation_with_a_wrong_passphrase_or_none_writes_no_keys(tmp_path: Path) -> None:
    authority, right, wrong = Authority(tmp_path / "authority"), tmp_path / "right", tmp_path / "wrong"
    for file in (right, wrong):
        file.write_text(file.name)
        file.chmod(0o600)
    authority.ok("init", "--passphrase-file", str(right))
    before = sorted(authority.directory.rglob("*.key"))
    assert "is encrypted" in authority.refused("rotate", "prepare")
    assert "cannot be opened" in authority.refused("rotate", "prepare", "--passphrase-file", str(wrong))
    assert sorted(authority.directory.rglob("*.key")) == before
    authority.ok("rotate", "prepare", "--passphrase-file", str(right))
    assert all(b"ENCRYPTED" in key.read_bytes() for key in authority.directory.rglob("*.key"))


def test_passphrase_file_that_is_no_file_is_not_waited_for(authority: Authority, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for path in (fifo, Path("/dev/zero")):
        assert "is not a regular file" in authority.refused("status", "--passphrase-file", str(path))
