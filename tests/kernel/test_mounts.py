"""Where the kernel's file systems are."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interceptor.errors import KernelError
from interceptor.kernel.mounts import (
    PROC_SYS,
    Mount,
    ensure_writable,
    find_cgroup2,
    is_bpffs,
    mount_bpffs,
    parse_mountinfo,
    unmount_bpffs,
)

UNIFIED = "31 23 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "32 31 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs ro\n"
    "33 32 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "34 32 0:30 / /sys/fs/cgroup/unified rw,nosuid shared:10 master:1 - cgroup2 cgroup2 rw\n"
)


def mountinfo(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "path"), [(UNIFIED, "/sys/fs/cgroup"), (HYBRID, "/sys/fs/cgroup/unified")])
def test_cgroup2_is_found_wherever_it_is(tmp_path: Path, text: str, path: str) -> None:
    assert find_cgroup2(mountinfo(tmp_path, text)) == Path(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        HYBRID.splitlines()[1],
        # A part of the tree, as containers have it: what is outside of it would not be captured.
        UNIFIED.replace(" / /sys", " /docker/1 /sys"),
    ],
)
def test_no_cgroup2_is_one_line_with_the_remedy(tmp_path: Path, text: str) -> None:
    with pytest.raises(KernelError, match="mount -t cgroup2 none") as caught:
        find_cgroup2(mountinfo(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_escapes_in_paths_are_undone_and_broken_lines_passed_over() -> None:
    text = "1 0 0:1 /a /mnt/with\\040space\\134x rw - bpf bpf rw\nnonsense\n1 0 0:1\n\n"
    assert parse_mountinfo(text) == [Mount(Path("/mnt/with space\\x"), "bpf", "/a")]


def test_directory_that_does_not_exist_yet_counts_where_it_would_be(tmp_path: Path) -> None:
    assert not is_bpffs(tmp_path / "a" / "b")
    assert not is_bpffs(Path("/"))


@pytest.mark.bpf
def test_bpffs_is_mounted_and_unmounted_when_nothing_is_pinned(tmp_path: Path) -> None:
    assert not is_bpffs(tmp_path / "pins")
    assert mount_bpffs(tmp_path)
    try:
        assert is_bpffs(tmp_path)
        assert is_bpffs(tmp_path / "pins" / "of" / "ours")
        assert tmp_path.stat().st_mode & 0o777 == 0o700
        (tmp_path / "pins").mkdir()
        assert not unmount_bpffs(tmp_path)
        (tmp_path / "pins").rmdir()
        assert unmount_bpffs(tmp_path)
        assert not unmount_bpffs(tmp_path)
    finally:
        ctypes.CDLL(None).umount2(os.fsencode(tmp_path), 2)
    assert not is_bpffs(tmp_path)


@pytest.mark.bpf
def test_bpffs_that_somebody_mounted_at_the_same_moment_is_not_hidden(tmp_path: Path) -> None:
    assert mount_bpffs(tmp_path)
    try:
        (tmp_path / "pins").mkdir()
        assert not mount_bpffs(tmp_path)
        assert (tmp_path / "pins").exists()
        (tmp_path / "pins").rmdir()
        assert unmount_bpffs(tmp_path)
        assert not is_bpffs(tmp_path)
    finally:
        while ctypes.CDLL(None).umount2(os.fsencode(tmp_path), 2) == 0:
            pass


@pytest.mark.bpf
def test_bpffs_that_cannot_be_mounted_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"cannot mount a BPF file system at .*: No such file or directory"):
        mount_bpffs(tmp_path / "nowhere")


AS_IN_A_CONTAINER = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
TRY = """
from interceptor.kernel.mounts import PROC_SYS, ensure_writable
print(ensure_writable(PROC_SYS), ensure_writable(PROC_SYS), (PROC_SYS / "kernel/domainname").open("a").close())
"""


@pytest.mark.netns
def test_proc_sys_that_a_runtime_made_read_only_is_made_writable() -> None:
    script = f"{AS_IN_A_CONTAINER} && exec {sys.executable} -c '{TRY}'"
    result = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("True False None\n", "")


@pytest.mark.netns
def test_proc_sys_that_cannot_be_made_writable_is_one_line_with_the_remedy() -> None:
    script = f"{AS_IN_A_CONTAINER} && exec setpriv --bounding-set -sys_admin {sys.executable} -c '{TRY}'"
    result = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    last = result.stderr.splitlines()[-1]
    assert "/proc/sys is read-only in this container, and cannot be made writable" in last
    assert "CAP_SYS_ADMIN" in last


def test_proc_sys_that_is_writable_is_left_alone() -> None:
    assert not ensure_writable(PROC_SYS)
