"""`make install` and `make uninstall`: what lies where, below a DESTDIR, and that it works outside of the checkout."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor import __version__
from interceptor.config import default_config_text

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
# A virtual environment is made, and every package of the lock file installed into it.
pytestmark = pytest.mark.timeout(180)

Script = subprocess.CompletedProcess[str]


def system(action: str, root: Path, **variables: str) -> Script:
    """Run .ci/system with DESTDIR."""
    return subprocess.run(
        [ROOT / ".ci/system", action],
        env={**os.environ, "DESTDIR": str(root), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DESTDIR with everything in it."""
    root = tmp_path_factory.mktemp("system")
    result = system("install", root)
    assert result.returncode == 0, result.stderr
    assert f"installed interceptor, version {__version__} in {root}/opt/interceptor" in result.stdout
    return root


def unit_of(root: Path) -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign] # keys of units are written in capitals
    unit.read(root / "usr/local/lib/systemd/system/interceptor.service")
    return unit


def test_installed_files_are_everybodys_to_read_and_nobodys_else_to_write(installed: Path) -> None:
    assert (installed / "etc/interceptor/config.yaml").read_text() == default_config_text()
    assert (installed / "usr/local/bin/interceptor").readlink() == Path("/opt/interceptor/bin/interceptor")
    for path in installed.rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o022 == 0, path
            assert path.stat().st_mode & 0o044 == 0o044, path


def test_installed_program_names_its_final_place_alone(installed: Path) -> None:
    first_line = (installed / "opt/interceptor/bin/interceptor").read_bytes().split(b"\n")[0]
    assert first_line == b"#!/opt/interceptor/bin/python"
    mention = subprocess.run(
        ["grep", "-rl", str(installed), installed], capture_output=True, text=True, check=False
    )
    assert mention.stdout == ""


def test_unit_starts_the_installed_program_and_stops_nothing_else(installed: Path) -> None:
    service = unit_of(installed)["Service"]
    assert service["ExecStart"] == "/opt/interceptor/bin/interceptor agent"
    assert (service["Type"], service["KillMode"], service["Restart"]) == ("notify", "process", "on-failure")


def test_unit_has_no_private_mounts(installed: Path) -> None:
    # systemd.exec(5): each of these gives the agent a mount namespace, and 'interceptor run' would not find there what
    # the agent mounts.
    private = (
        "Private",
        "Protect",
        "ReadWrite",
        "ReadOnly",
        "Inaccessible",
        "Bind",
        "Temporary",
        "RootDirectory",
    )
    assert not [key for key in unit_of(installed)["Service"] if key.startswith(private)]


@pytest.mark.bpf
@pytest.mark.netns
def test_installed_program_works_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    python = installed / "opt/interceptor/bin/python"
    where = subprocess.run(
        [python, "-I", "-c", "from interceptor.kernel.bpf_program import source_directory as s; print(s())"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(installed)
    doctor = subprocess.run(
        [python, "-I", "-m", "interceptor", "doctor", "-o", "json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    levels = {check["check"]: check["level"] for check in json.loads(doctor.stdout)["checks"]}
    assert (levels["bpf programs"], levels["bpf hooks"]) == ("ok", "ok"), doctor.stdout


def test_install_over_an_older_one_keeps_the_configuration(installed: Path) -> None:
    config = installed / "etc/interceptor/config.yaml"
    config.write_text("mode: PERMISSIVE\n")
    leftover = installed / "opt/interceptor/lib/of-the-version-before"
    leftover.touch()
    assert system("install", installed).returncode == 0
    assert config.read_text() == "mode: PERMISSIVE\n"
    assert not leftover.exists()
    assert sorted(path.name for path in (installed / "opt").iterdir()) == ["interceptor"]


def test_install_into_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "opt/interceptor/precious"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    result = system("install", tmp_path)
    assert result.returncode == 1
    assert "is not a virtual environment: remove it, or set prefix to another directory" in result.stderr
    system("uninstall", tmp_path)
    assert theirs.exists()


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[], Path]:
    """Makes what `install` leaves, as far as `uninstall` looks at it."""

    def make() -> Path:
        for name in (
            "opt/interceptor/bin",
            "usr/local/bin",
            "usr/local/lib/systemd/system",
            "etc/interceptor",
        ):
            (tmp_path / name).mkdir(parents=True)
        for name in (
            "opt/interceptor/pyvenv.cfg",
            "usr/local/lib/systemd/system/interceptor.service",
            "etc/interceptor/config.yaml",
        ):
            (tmp_path / name).touch()
        (tmp_path / "usr/local/bin/interceptor").symlink_to("/opt/interceptor/bin/interceptor")
        return tmp_path

    return make


@pytest.mark.parametrize(("purge", "left"), [("", ["etc/interceptor/config.yaml"]), ("1", [])])
def test_uninstall_leaves_configuration_unless_purged(
    copied: Callable[[], Path], purge: str, left: list[str]
) -> None:
    root = copied()
    assert system("uninstall", root, PURGE=purge).returncode == 0
    found = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or path.is_file()]
    assert found == left


def test_uninstall_leaves_a_command_that_is_not_ours(copied: Callable[[], Path]) -> None:
    root = copied()
    command = root / "usr/local/bin/interceptor"
    command.unlink()
    command.symlink_to("/somewhere/else")
    assert system("uninstall", root).returncode == 0
    assert command.is_symlink()
