"""The two-minute tour: it holds what it claims here, reads well, and leaves nothing behind, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor.cli.stage import plain_environment
from tests.harness.process import CLI, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

real = [pytest.mark.bpf, pytest.mark.netns, pytest.mark.timeout(120)]


@pytest.fixture
def alone() -> Iterator[None]:
    """Its addresses are fixed, so there can be one demo at a time on a machine."""
    with Path("/run/itest-demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def left_of(pid: int) -> list[str]:
    """What a demo of this process has made and not removed."""
    found = [
        str(path)
        for path in (
            Path(f"/sys/class/net/idemo{pid}"),
            Path(f"/sys/fs/bpf/interceptor-demo-{pid}"),
            *Path("/tmp").glob("interceptor-demo-*"),
        )
        if path.exists()
    ]
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and b"interceptor-demo-" in (entry / "cmdline").read_bytes():
                found.append(str(entry))
    return found


@pytest.mark.usefixtures("alone")
class TestDemo:
    pytestmark = real

    def test_everything_that_it_claims_holds(self) -> None:
        result = run([CLI, "demo"], timeout=90)
        assert result.status == 0, result.stdout + result.stderr
        assert result.stderr == ""
        lines = result.stdout.splitlines()
        assert max(map(len, lines)) <= 100
        assert [line.split(".")[0] for line in lines if line[:1].isdecimal()] == list("1234567")
        for claim in (
            "curl got the file over IPv4",
            "curl got the file over IPv6",
            "none outside of one",
            "0 packets with the plaintext",
            "spiffe://cluster.local/ns/default/sa/client -> spiffe://cluster.local/ns/default/sa/web",
            "over TLSv1.3",
            "it is refused",
            "sent plaintext to default/web, whose mode is STRICT",
            "nothing is left",
        ):
            assert claim in result.stdout
        assert left_of(0) == []
        assert not list(Path("/sys/class/net").glob("idemo*"))

    @pytest.mark.parametrize(
        ("number", "moment"),
        [
            (signal.SIGINT, "compiling and loading"),
            (signal.SIGTERM, "2. Run a web server"),
            (signal.SIGINT, "(client) $ curl"),
        ],
    )
    def test_interrupted_it_leaves_nothing_behind(self, number: int, moment: str) -> None:
        demo = subprocess.Popen(
            [CLI, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert demo.stdout is not None
        for line in demo.stdout:
            if moment in line:
                break
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=60)
        assert demo.returncode == 130
        assert errors == ""
        wait_until(lambda: left_of(demo.pid) == [], "nothing is left of the demo")

    def test_claim_that_does_not_hold_is_one_line_and_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "curl").write_text("#!/bin/sh\necho something else\n")
        (tmp_path / "curl").chmod(0o755)
        result = run([CLI, "demo"], timeout=90, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
        assert result.status == 1
        assert result.stderr == "interceptor: this does not hold: curl got the file over IPv4\n"
        assert left_of(0) == []

    def test_second_demo_at_the_same_time_is_one_line(self) -> None:
        name = f"itestdemo{os.getpid() % 10000}"
        subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
        try:
            subprocess.run(["ip", "address", "add", "10.214.3.4/24", "dev", name], check=True)
            result = run([CLI, "demo"], timeout=90)
        finally:
            subprocess.run(["ip", "link", "del", name], check=True)
        assert result.status == 1
        assert "10.214.0.0/16" in result.stderr
        assert result.stderr.startswith("interceptor: ")
        assert result.stderr.count("\n") == 1
        assert left_of(0) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="asks for root first")
def test_machine_without_curl_is_told_how_to_get_it(tmp_path: Path) -> None:
    result = run([sys.executable, "-m", "interceptor", "demo"], env={"PATH": str(tmp_path)})
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == "interceptor: the demo needs curl: apt-get install curl\n"


def test_environment_of_its_programs_leads_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://192.0.2.1")
    monkeypatch.setenv("ALL_PROXY", "http://192.0.2.1")
    environment = plain_environment(tmp_path)
    assert not [name for name in environment if name.lower().endswith("_proxy")]
    assert environment["HOME"] == str(tmp_path)
    assert shutil.which("sh", path=environment["PATH"])
