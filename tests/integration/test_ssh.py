"""ssh to sshd: the server speaks first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.process import run
from tests.harness.records import assert_mutual_tls
from tests.harness.tcp import FAMILIES, family_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.namespace import Workload
    from tests.harness.node import Node
    from tests.harness.process import Program

pytestmark = [pytest.mark.netns, pytest.mark.bpf]

BANNER = b"SSH-2.0-OpenSSH_"  # what both sides send in plaintext, before anything else

CONFIGURATION = """\
Port 22
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/client_key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM yes
PidFile none
LogLevel VERBOSE
"""


@pytest.fixture(scope="module")
def shell(shared_node: Node) -> Iterator[tuple[Workload, Program, Path]]:
    """A workload with sshd, its program, and the directory of the client's key."""
    workload = shared_node.workload("shell")
    directory = shared_node.files / "ssh"
    directory.mkdir(mode=0o700)
    for name in ("host_key", "client_key"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name]).check()
    configuration = directory / "sshd_config"
    configuration.write_text(CONFIGURATION.format(directory=directory))
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # Debian's unit makes it; sshd demands it
    server = workload.spawn("/usr/sbin/sshd", "-D", "-e", "-f", configuration, ready_port=22)
    yield workload, server, directory
    workload.close()


@pytest.mark.parametrize("family", FAMILIES, ids=family_id)
def test_command_over_ssh_runs_and_the_servers_log_has_the_clients_address(
    shared_node: Node, shared_client: Workload, shell: tuple[Workload, Program, Path], family: int
) -> None:
    workload, server, directory = shell
    since = shared_node.mark()
    known_hosts = directory / "known_hosts"
    host_key = (directory / "host_key.pub").read_text()
    known_hosts.write_text(f"{workload.address(family)} {host_key}")
    options = ["-F", "none", "-i", directory / "client_key", "-o", f"UserKnownHostsFile={known_hosts}"]
    options += ["-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
    with shared_node.wire(shared_client, workload, marker=BANNER):
        result = shared_client.run(
            *("ssh", *options, f"root@{workload.address(family)}", "cat; echo; echo $SSH_CLIENT"),
            input_bytes=b"read on the other side",
        ).check()
    said, client = result.stdout.splitlines()
    assert said == "read on the other side"
    assert client.split()[0] == shared_client.address(family)
    assert f"Accepted publickey for root from {shared_client.address(family)} port " in server.stderr
    assert_mutual_tls(shared_node.wait_for_pair(since=since), shared_client, workload)
