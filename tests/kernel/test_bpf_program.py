"""Compiling and loading for real, and one line for each way in which a machine is not ready for it."""

from __future__ import annotations

import faulthandler
import platform
import shutil
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import KernelError
from interceptor.kernel import bpf_program
from interceptor.kernel.bpf_program import (
    LOADED_PROGRAMS,
    Programs,
    Relocation,
    Template,
    import_bcc,
    load_programs,
    source_directory,
)
from interceptor.kernel.headers import find_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILES = Path("/proc/self/fd")
pytestmark = pytest.mark.timeout(60)  # clang takes seconds when the machine is busy


@pytest.fixture
def headers(tmp_path: Path) -> Path | None:
    return find_headers(None, platform.release(), tmp_path).path


@pytest.fixture(autouse=True)
def _crashes_of_children_are_theirs() -> Iterator[None]:
    """A compiler that crashes would write pytest's own traceback to the terminal."""
    faulthandler.disable()
    yield
    faulthandler.enable(file=sys.__stderr__)


def open_files() -> int:
    return len(list(FILES.iterdir()))


@pytest.mark.bpf
def test_programs_are_loaded_in_silence(headers: Path | None, capfd: pytest.CaptureFixture[str]) -> None:
    before = open_files()
    programs = load_programs(headers)
    try:
        assert set(programs.programs) == set(LOADED_PROGRAMS)
        assert set(programs.maps) == set(bpf_program._MAPS)
        kinds = {str((FILES / str(fd)).readlink()) for fd in programs.maps.values()}
        assert kinds == {"anon_inode:bpf-map"}
        kinds = {str((FILES / str(fd)).readlink()) for fd in programs.programs.values()}
        assert kinds == {"anon_inode:bpf-prog"}
        named = {
            name: {relocation.map_name for relocation in template.relocations}
            for name, template in programs.templates.items()
        }
        assert named == {
            "steer_inbound": {"counters", "inbound_listeners", "local_addresses", "probe_flows"},
            "steer_held": {"inbound_listeners", "pending_flows", "this_namespace"},
        }
        assert "bcc" not in sys.modules  # it stayed in the child
    finally:
        programs.close()
    assert open_files() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.bpf
def test_incomplete_headers_are_one_clear_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for directory in ("include/linux", "arch/x86/include/asm"):
        (tmp_path / directory).mkdir(parents=True)
    before = open_files()
    with pytest.raises(
        KernelError, match=r"the kernel header tree is not complete .*file not found"
    ) as caught:
        load_programs(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("run 'interceptor doctor'")
    assert open_files() == before
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def edited_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Lets the loader find a copy of bpf/ in which something was replaced in inbound.c."""

    def edit(old: str, new: str) -> None:
        copy = tmp_path / "bpf"
        shutil.copytree(source_directory(), copy)
        edited = copy / "inbound.c"
        text = edited.read_text()
        assert old in text
        edited.write_text(text.replace(old, new))
        monkeypatch.setattr(bpf_program, "source_directory", lambda: copy)

    return edit


@pytest.mark.bpf
@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("int steer_inbound(", "int steer_inbound(nonsense ", "inbound.c:3:"),
        ("\tbpf_sk_release(listener);\n", "", "reference"),
    ],
    ids=["compiler", "verifier"],
)
def test_program_that_is_refused_is_one_line(
    headers: Path | None,
    edited_source: Callable[[str, str], None],
    capfd: pytest.CaptureFixture[str],
    old: str,
    new: str,
    cause: str,
) -> None:
    edited_source(old, new)
    with pytest.raises(KernelError) as caught:
        load_programs(headers)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


# bcc itself.


@pytest.fixture
def fake_bcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a package bcc with this content in front of the real one."""

    def make(content: str) -> None:
        (tmp_path / "bcc").mkdir()
        (tmp_path / "bcc" / "__init__.py").write_text(content)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "bcc", raising=False)

    return make


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "raise ImportError('libbcc.so.0: cannot open shared object file')",
            "bcc cannot be imported (libbcc.so.0: cannot open shared object file): apt-get install python3-bpfcc",
        ),
        ("import nonexistent_module", "apt-get install python3-bpfcc"),
        ("__version__ = '0.18.0'\nclass BPF: pass", "bcc 0.18.0 is too old"),
        ("__version__ = '1.0'", "bcc is not the BPF compiler (an unrelated package of that name is on PyPI)"),
    ],
    ids=["broken", "missing", "old", "unrelated"],
)
def test_bcc_that_will_not_do_is_one_line_with_its_remedy(
    fake_bcc: Callable[[str], None], capfd: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    fake_bcc(content)
    with pytest.raises(KernelError) as caught:
        load_programs(None)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_bcc_of_unknown_version_is_tried(fake_bcc: Callable[[str], None]) -> None:
    fake_bcc("__version__ = 'EAD-NOTFOUND+GITDIR-N'\nclass BPF: pass")
    try:
        assert import_bcc().__version__.startswith("EAD")
    finally:
        del sys.modules["bcc"]


def test_compiler_that_crashes_takes_nobody_along(
    fake_bcc: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    fake_bcc(
        "import os\n__version__ = '0.26.0'\nclass BPF:\n    def __init__(self, **_): os.kill(os.getpid(), 9)"
    )
    before = open_files()
    with pytest.raises(KernelError, match="the compiler ended with status") as caught:
        load_programs(None)
    assert "\n" not in str(caught.value)
    assert open_files() == before
    assert capfd.readouterr() == ("", "")


def test_error_without_diagnostics_is_shown_itself(fake_bcc: Callable[[str], None]) -> None:
    content = (
        "__version__ = '0.26.0'\nclass BPF:\n    def __init__(self, **_): raise Exception('Need super-user')"
    )
    fake_bcc(content)
    with pytest.raises(KernelError, match=r"cannot be loaded \(Need super-user\): run 'interceptor doctor'"):
        load_programs(None)


def test_instructions_get_the_maps_of_their_namespace() -> None:
    load = struct.pack("<BBhi", 0x18, 0x11, 0, 7) + bytes(8)
    template = Template(load + load, (Relocation(0, "a"), Relocation(16, "b")))
    programs = Programs({"a": 7, "b": 8}, {}, {"steer": template}, ())
    code = programs.instructions("steer", {"b": 99})
    assert [struct.unpack_from("<i", code, offset + 4)[0] for offset in (0, 16)] == [7, 99]
    assert programs.templates["steer"].code == load + load
