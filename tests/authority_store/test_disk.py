"""A real file system that is full, or read-only: each command is refused with one line, and works again afterwards."""

import subprocess

import pytest

from tests.harness.process import CLI

pytestmark = [pytest.mark.netns, pytest.mark.timeout(60)]  # a dozen commands, each a Python process

# Mounts are those of a mount namespace of its own, which ends with the script.
BEGIN = """
set -u
mount -t tmpfs -o size=512k,mode=700 none "$2"
run() { echo "> $*"; "$ca" ca "$@" --dir "$home/authority" 2>&1; echo "status $?"; }
ca=$1 home=$2
run init
run revoke abc0000000000000000
"""


def outputs(tmp_path, script):
    """What each command printed, with its exit status."""
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        BEGIN + script,
        "sh",
        CLI,
        tmp_path,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert result.stderr == ""
    found = {}
    for part in result.stdout.split("> ")[1:]:
        name, _, rest = part.partition("\n")
        text, _, status = rest.rpartition("status ")
        found.setdefault(name, []).append((int(status), text.splitlines()))
    return found


def refused_with(outcome, word):
    status, lines = outcome
    assert (status, len(lines)) == (1, 1), lines
    assert lines[0].startswith("interceptor: ")
    assert word in lines[0]


def test_authority_on_a_full_disk_can_be_read_and_goes_on_when_there_is_space(tmp_path):
    found = outputs(
        tmp_path,
        """
        head -c 1000000 /dev/zero > "$home/filler" 2>/dev/null
        run revoke def0000000000000000
        run rotate prepare
        run rotate intermediate
        run revocations
        run status
        rm "$home/filler"
        run revoke def0000000000000000
        run rotate prepare
        run rotate intermediate
        run revocations
        """,
    )
    for change, what in (
        ("revoke def0000000000000000", "disk"),
        ("rotate prepare", "space"),
        ("rotate intermediate", "space"),
    ):
        full, spacious = found[change]
        refused_with(full, what)
        assert spacious[0] == 0
    before, after = found["revocations"]
    assert [(status, len(lines)) for status, lines in (before, after)] == [(0, 2), (0, 3)]
    assert found["status"][0][0] == 0


def test_authority_on_a_read_only_file_system_is_refused_and_loses_nothing(tmp_path):
    found = outputs(
        tmp_path,
        """
        mount -o remount,ro "$home"
        run revoke def0000000000000000
        run rotate prepare
        run token create --node a --allow "ns/*/sa/*"
        run status
        mount -o remount,rw "$home"
        run revocations
        """,
    )
    refused_with(found["revoke def0000000000000000"][0], "cannot be written")
    for change in ("token create --node a --allow ns/*/sa/*", "rotate prepare"):
        refused_with(found[change][0], "cannot write the audit file")
        refused_with(found[change][0], "Read-only file system), nothing was changed")
    assert found["status"][0][0] == 0
    assert found["revocations"][0][0] == 0
    assert "abc0000000000000000" in found["revocations"][0][1][1]
