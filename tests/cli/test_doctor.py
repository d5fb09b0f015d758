"""doctor: the right line on a machine that lacks something, by taking it away, in a mount namespace or a user."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from interceptor.kernel import bpf_syscall
from interceptor.kernel.mounts import find_cgroup2, parse_mountinfo
from tests.harness.process import CLI, is_alive, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.node import Node
    from tests.harness.process import Result

pytestmark = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(60)]

BPF_F_ALLOW_MULTI = 2
LEVELS = {"ok", "warning", "failure"}


@pytest.fixture
def metrics_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def config(tmp_path: Path, metrics_port: int) -> Path:
    """A configuration that nobody else on this machine has."""
    path = tmp_path / "config.yaml"
    tmp_path.chmod(0o700)
    path.write_text(
        yaml.safe_dump(
            {
                "mesh": {"cidrs": ["198.51.100.0/24", "fd5e:d0c::/64"]},
                "bridge": {"name": "itestdoc0", "ipv4": "198.51.100.1/24", "ipv6": "fd5e:d0c::1/64"},
                "paths": {
                    "state": str(tmp_path / "state"),
                    "run": str(tmp_path / "run"),
                    "bpf": "/sys/fs/bpf/itest-doctor",
                },
                "metrics": {"address": f"127.0.0.1:{metrics_port}"},
            }
        )
    )
    return path


@pytest.fixture(autouse=True)
def _leaves_the_machine_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scratch files go where no other doctor has its own; a cgroup is left behind if its doctor has ended."""
    with tempfile.TemporaryDirectory(prefix="itest-doctor-", dir="/tmp") as name:
        scratch = Path(name)
        scratch.chmod(0o1777)  # for the doctor that is not root, too
        monkeypatch.setenv("TMPDIR", name)

        def made() -> list[Path]:
            cgroups = [
                each
                for each in find_cgroup2().glob("interceptor-doctor-*")
                if not is_alive(int(each.name.rpartition("-")[2]))
            ]
            mounts = [each.mount_point for each in parse_mountinfo(Path("/proc/self/mountinfo").read_text())]
            return [
                *cgroups,
                *scratch.iterdir(),
                *Path("/sys/class/net").glob("doctor*"),  # it makes these, but in a namespace
                *(each for each in mounts if each.is_relative_to(scratch)),
            ]

        before = made()
        yield
        assert made() == before


def diagnose(config: Path, *, script: str = "", env: dict[str, str] | None = None) -> Result:
    """Run the doctor, after a shell script in a mount namespace of its own if one is given."""
    doctor = [str(CLI), "--config", str(config), "doctor", "-o", "json"]
    if script:
        doctor = ["unshare", "--mount", "sh", "-ec", f'{script}\nexec "$@"', "sh", *doctor]
    result = run(doctor, env={"PYTHONPATH": "", "BCC_KERNEL_SOURCE": "", **(env or {})})
    assert result.stderr == ""
    return result


def findings(result: Result) -> dict[str, list[dict[str, str]]]:
    """The findings by check."""
    answer = json.loads(result.stdout)
    by_check: dict[str, list[dict[str, str]]] = {}
    for finding in answer["checks"]:
        by_check.setdefault(finding["check"], []).append(finding)
    return by_check


def failures(result: Result) -> dict[str, dict[str, str]]:
    assert result.status == 1
    return {
        check: each
        for check, found in findings(result).items()
        for each in found
        if each["level"] == "failure"
    }


def test_machine_that_can_run_it_has_no_failure(config: Path) -> None:
    result = diagnose(config)
    answer = json.loads(result.stdout)
    assert result.status == 0, answer
    assert answer["can_run"] is True
    assert set(answer) == {"can_run", "checks"}
    assert all(set(each) == {"check", "level", "message", "remedy"} for each in answer["checks"])
    assert {each["level"] for each in answer["checks"]} <= LEVELS - {"failure"}
    assert all(each["remedy"] for each in answer["checks"] if each["level"] != "ok")
    assert {each["check"] for each in answer["checks"]} == {
        "privileges",
        "kernel",
        "cgroup v2",
        "bpf file system",
        "bcc",
        "kernel headers",
        "bpf programs",
        "bpf hooks",
        "other software",
        "network",
        "addresses",
        "metrics port",
        "open files",
        "clock",
        "directories",
    }


def test_table_has_a_line_for_each_and_the_conclusion(config: Path) -> None:
    result = run([CLI, "--config", config, "doctor"])
    *lines, conclusion = result.stdout.splitlines()
    assert result.status == 0
    assert max(map(len, lines)) < 110
    assert {line.split()[0] for line in lines if not line.startswith(" ")} <= {"ok", "warning"}
    assert "interceptor can run here" in conclusion


def test_machine_without_headers(config: Path) -> None:
    script = "for d in /usr/src /lib/modules; do [ ! -d $d ] || mount -t tmpfs none $d; done"
    if Path("/sys/kernel/kheaders.tar.xz").exists():
        script += "\nmount -t tmpfs none /sys/kernel"
    result = diagnose(config, script=script)
    found = failures(result)
    assert list(found) == ["kernel headers"]
    assert "no kernel headers" in found["kernel headers"]["message"]
    assert "linux-headers" in found["kernel headers"]["remedy"]
    assert findings(result)["bpf programs"][0]["message"] == "not tried"
    assert findings(result)["bpf hooks"][0]["remedy"] == "first: bpf programs"


def test_machine_without_cgroup2(config: Path) -> None:
    mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
    points = [str(each.mount_point) for each in mounts if each.file_system == "cgroup2"]
    result = diagnose(config, script="\n".join(f"umount --lazy {point}" for point in reversed(points)))
    found = failures(result)
    assert list(found) == ["cgroup v2"]
    assert "cgroup v2 is not mounted" in found["cgroup v2"]["message"]
    assert found["cgroup v2"]["remedy"].startswith("mount -t cgroup2")
    assert findings(result)["bpf programs"][0]["level"] == "ok"
    assert findings(result)["other software"][0]["message"] == "not tried"


def test_cgroup2_that_something_is_mounted_over(config: Path) -> None:
    found = failures(diagnose(config, script=f"mount -t tmpfs none {find_cgroup2()}"))
    assert "is not in a cgroup-v2 hierarchy" in found["cgroup v2"]["message"]


def test_machine_without_bpf_file_system_gets_one_by_up(config: Path) -> None:
    points = [
        str(each.mount_point)
        for each in parse_mountinfo(Path("/proc/self/mountinfo").read_text())
        if each.file_system == "bpf"
    ]
    result = diagnose(config, script="\n".join(f"umount --lazy {point}" for point in reversed(points)))
    assert result.status == 0
    found = findings(result)["bpf file system"][0]
    assert (found["level"], "will mount it" in found["message"]) == ("ok", True)


@pytest.mark.parametrize(
    ("source", "message", "remedy"),
    [
        ("__version__ = '0.18.0'\nclass BPF: pass", "bcc 0.18.0 is too old", "install bcc 0.25 or newer"),
        ("__version__ = '1.0'", "is not the BPF compiler", "pip uninstall bcc"),
        ("raise ImportError('no libbcc')", "cannot be imported (no libbcc)", "apt-get install python3-bpfcc"),
        (
            "raise OSError('libbcc.so.0: no')",
            "cannot be imported (libbcc.so.0: no)",
            "apt-get install python3-bpfcc",
        ),
        ("this is not python", "cannot be imported", "apt-get install python3-bpfcc"),
    ],
    ids=["old", "of-pypi", "missing", "without-library", "broken"],
)
def test_bcc_that_will_not_do(config: Path, tmp_path: Path, source: str, message: str, remedy: str) -> None:
    package = tmp_path / "modules" / "bcc"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    found = failures(diagnose(config, env={"PYTHONPATH": str(package.parent)}))
    assert list(found) == ["bcc"]
    assert message in found["bcc"]["message"]
    assert remedy in found["bcc"]["remedy"]


def test_headers_that_are_configured_wrongly(config: Path) -> None:
    found = failures(diagnose(config, env={"BCC_KERNEL_SOURCE": "/etc"}))
    assert "/etc is not a kernel header tree" in found["kernel headers"]["message"]


def test_without_root() -> None:
    code = (
        "import os, sys\n"
        "import interceptor.cli, interceptor.kernel.preflight\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.argv = ['interceptor', 'doctor', '-o', 'json']\n"
        "interceptor.cli.main()\n"
    )
    result = run([sys.executable, "-c", code], cwd=Path("/"), env={"INTERCEPTOR_CONFIG": ""})
    assert result.stderr == ""
    found = failures(result)["privileges"]
    assert found["message"] == "not root, but uid 65534"
    assert found["remedy"].startswith("use sudo")
    by_check = findings(result)
    assert {by_check[check][0]["level"] for check in ("kernel", "cgroup v2", "bcc", "kernel headers")} == {
        "ok"
    }
    assert {by_check[check][0]["message"] for check in ("bpf programs", "network", "other software")} == {
        "not tried"
    }


def test_root_without_capabilities(config: Path) -> None:
    command = [
        "setpriv",
        "--bounding-set=-net_admin,-sys_admin",
        CLI,
        "--config",
        config,
        "doctor",
        "-o",
        "json",
    ]
    found = failures(run(command))
    assert found["privileges"]["message"] == "root, but without CAP_NET_ADMIN and CAP_SYS_ADMIN"


def test_few_rights_and_few_open_files_are_warnings(config: Path) -> None:
    script = 'ulimit -n 1024; exec setpriv --bounding-set=-sys_ptrace "$@"'
    result = run(["sh", "-c", script, "sh", CLI, "--config", config, "doctor", "-o", "json"])
    found = findings(result)
    assert result.status == 0
    assert [each["level"] for each in found["privileges"]] == ["warning", "ok"]
    assert found["open files"][0]["level"] == "warning"
    assert found["open files"][0]["message"] == "at most 1024 open files: about 256 connections at once"


def test_port_that_is_taken_and_directory_that_others_can_look_into(config: Path, metrics_port: int) -> None:
    state = config.parent / "state"
    state.mkdir(mode=0o755)
    with socket.create_server(("127.0.0.1", metrics_port)):
        found = failures(diagnose(config))
    assert set(found) == {"metrics port", "directories"}
    assert "Address already in use" in found["metrics port"]["message"]
    assert found["directories"]["remedy"] == f"chmod 0700 {state}"


def test_running_agent_of_the_same_configuration_is_no_conflict(shared_node: Node) -> None:
    result = shared_node.cli("doctor", "-o", "json")
    assert result.status == 0, result.stdout
    assert "is held by the agent that is running" in findings(result)["metrics port"][0]["message"]


@pytest.fixture
def own_cgroup(config: Path) -> Iterator[Path]:
    """A cgroup for this test, which the configuration names."""
    cgroup = find_cgroup2() / f"itest-doctor-{os.getpid()}"
    document: dict[str, Any] = yaml.safe_load(config.read_text())
    document["paths"]["cgroup"] = str(cgroup)
    config.write_text(yaml.safe_dump(document))
    cgroup.mkdir()
    yield cgroup
    cgroup.rmdir()


def test_programs_of_other_software_are_named(config: Path, own_cgroup: Path) -> None:
    attach_foreign_program(own_cgroup, BPF_F_ALLOW_MULTI)
    result = diagnose(config)
    found = findings(result)["other software"]
    assert result.status == 0
    assert [each["level"] for each in found] == ["warning"]
    assert found[0]["message"].startswith("socket_lb at connect4 of ")


def test_program_that_keeps_others_out_is_a_failure(config: Path, own_cgroup: Path) -> None:
    attach_foreign_program(own_cgroup, 0)
    found = failures(diagnose(config))
    assert "BPF_F_ALLOW_MULTI" in found["other software"]["message"]
    assert "cannot be attached" in found["bpf hooks"]["message"]


def attach_foreign_program(cgroup: Path, flags: int) -> None:
    """Attach a program called `socket_lb` at connect4 of a cgroup; it goes with the cgroup."""
    connect4, sock_addr, attach_command = 10, 18, 8
    permit = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0)  # r0 = 1; exit
    program = bpf_syscall.load_program(sock_addr, connect4, permit, "socket_lb")
    target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        bpf_syscall._bpf(attach_command, struct.pack("=IIII", target, program, connect4, flags))
    finally:
        os.close(target)
        os.close(program)
