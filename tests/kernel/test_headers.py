"""Header trees of every distribution, as empty files; and the machine's own, with real includes behind them."""

from __future__ import annotations

import os
import platform
import tarfile
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import KernelError
from interceptor.kernel.headers import HeaderTree, architecture, find_headers

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = "6.8.0-45-generic"
ARCH = f"arch/{architecture(platform.machine())}/include"
HANDWRITTEN = (
    "include/linux/kconfig.h",
    "include/linux/types.h",
    f"{ARCH}/asm/page.h",
    "include/uapi/linux/bpf.h",
)
GENERATED = ("include/generated/autoconf.h", f"{ARCH}/generated/asm/errno.h", "include/config/NET")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def make(directory: Path, *files: str) -> Path:
    for file in files:
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{directory.name}: {file}", encoding="utf-8")
    return directory


def debian(root: Path, version: str, flavour: str = "amd64", kind: str = "") -> tuple[Path, Path]:
    return (
        make(root / f"usr/src/linux-headers-{version}-{flavour}", "Makefile", *GENERATED),
        make(root / f"usr/src/linux-headers-{version}-common{kind}", "Makefile", *HANDWRITTEN),
    )


def find(root: Path, release: str = RELEASE, configured: Path | None = None) -> HeaderTree:
    return find_headers(configured, release, root.parent / "run", root)


def merged(root: Path, tree: HeaderTree) -> str:
    """The name of a merged tree, once it is seen to have everything."""
    assert tree.path is not None
    assert tree.path.parent == root.parent / "run/kernel-headers"
    assert all((tree.path / file).is_file() for file in (*HANDWRITTEN, *GENERATED))
    return tree.path.name


def test_configured_tree_comes_first(root: Path, tmp_path: Path) -> None:
    make(root / f"lib/modules/{RELEASE}/build", *HANDWRITTEN, *GENERATED)
    configured = make(tmp_path / "mine", *HANDWRITTEN, *GENERATED)
    assert find(root, configured=configured) == HeaderTree(configured, str(configured))


@pytest.mark.parametrize("half", [0, 1])
def test_configured_half_of_a_debian_pair_is_joined_with_the_other(root: Path, half: int) -> None:
    pair = debian(root, "6.1.0-9")
    assert merged(root, find(root, configured=pair[half])) == "linux-headers-6.1.0-9-amd64"


def test_configured_tree_that_is_incomplete_is_refused_whatever_else_there_is(
    root: Path, tmp_path: Path
) -> None:
    debian(root, "6.1.0-9")
    configured = make(tmp_path / "mine", *HANDWRITTEN)
    with pytest.raises(
        KernelError, match=f"{configured} is not a kernel header tree, include/generated/autoconf.h is"
    ):
        find(root, configured=configured)
    with pytest.raises(
        KernelError, match=r"nowhere is not a kernel header tree, .*correct paths.kernelHeaders"
    ):
        find(root, configured=tmp_path / "nowhere")


def test_modules_build_directory_is_left_to_bcc(root: Path) -> None:
    build = make(root / f"lib/modules/{RELEASE}/build", *HANDWRITTEN, *GENERATED)
    assert find(root) == HeaderTree(None, str(build))


def test_modules_build_and_source_are_left_to_bcc(root: Path) -> None:
    build, source = debian(root, "6.1.0-9")
    modules = root / f"lib/modules/{RELEASE}"
    modules.mkdir(parents=True)
    (modules / "build").symlink_to(build)
    (modules / "source").symlink_to(source)
    assert find(root) == HeaderTree(None, f"{modules}/source and {modules}/build")


def test_modules_links_that_lead_nowhere_are_passed_over(root: Path) -> None:
    modules = root / f"lib/modules/{RELEASE}"
    modules.mkdir(parents=True)
    (modules / "build").symlink_to("/nowhere")
    debian(root, "6.1.0-9")
    assert merged(root, find(root)) == "linux-headers-6.1.0-9-amd64"


def test_kernels_own_archive_is_unpacked_once(root: Path, tmp_path: Path) -> None:
    debian(root, "6.1.0-9")
    content = make(tmp_path / "content", *HANDWRITTEN, *GENERATED)
    archive = root / "sys/kernel/kheaders.tar.xz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:xz") as writing:
        writing.add(content, ".")
    tree = find(root)
    assert merged(root, tree) == f"kheaders-{RELEASE}"
    archive.write_bytes(b"")  # would fail if it were read again
    assert find(root) == tree


def test_kernels_own_archive_that_is_damaged_is_an_error_and_leaves_nothing(
    root: Path, tmp_path: Path
) -> None:
    archive = make(root / "sys/kernel", "kheaders.tar.xz") / "kheaders.tar.xz"
    assert archive.exists()
    with pytest.raises(KernelError, match="cannot assemble kernel headers in "):
        find(root)
    assert list((tmp_path / "run/kernel-headers").iterdir()) == []


def test_debian_pairs_prefer_the_running_release_then_the_newest(root: Path) -> None:
    for version in ("6.1.0-9", "6.1.0-10", "5.10.0-30"):
        debian(root, version)
    debian(root, "6.1.0-10", "rt-amd64", "-rt")
    make(root / "usr/src/linux-headers-6.12.0-1-amd64", *GENERATED)  # its other half is missing
    assert merged(root, find(root)) == "linux-headers-6.1.0-10-rt-amd64"
    assert merged(root, find(root, "6.1.0-10-amd64")) == "linux-headers-6.1.0-10-amd64"
    assert merged(root, find(root, "5.10.0-30-amd64")) == "linux-headers-5.10.0-30-amd64"


def test_merged_tree_is_few_links_and_used_again(root: Path) -> None:
    build, source = debian(root, "6.1.0-9")
    tree = find(root)
    assert merged(root, tree) == "linux-headers-6.1.0-9-amd64"
    assert tree.path is not None
    assert tree.description == f"{build} and {source}, merged in {tree.path}"
    assert (tree.path / "include/linux").readlink() == source / "include/linux"
    assert (tree.path / "include/generated").readlink() == build / "include/generated"
    assert (tree.path / "Makefile").read_text() == "linux-headers-6.1.0-9-amd64: Makefile"
    before = tree.path.stat().st_ino
    assert find(root) == tree
    assert tree.path.stat().st_ino == before
    assert [path.name for path in tree.path.parent.iterdir()] == [tree.path.name]


def test_merged_tree_whose_packages_were_replaced_is_made_anew(root: Path) -> None:
    build, source = debian(root, "6.1.0-9")
    tree = find(root)
    build.rename(root / "gone")
    debian(root, "6.1.0-9")
    (source / "include/linux/kconfig.h").unlink()
    with pytest.raises(KernelError, match="no kernel headers"):
        find(root)
    debian(root, "6.1.0-9")
    assert find(root) == tree
    assert merged(root, tree)


def test_ubuntu_flavour_directory_is_whole_by_its_links(root: Path) -> None:
    plain = make(root / "usr/src/linux-headers-6.8.0-44", *HANDWRITTEN)
    flavour = make(root / "usr/src/linux-headers-6.8.0-44-generic", *GENERATED)
    for name in ("include/linux", "include/uapi", f"{ARCH}/asm"):
        (flavour / name).symlink_to(plain / name)
    assert find(root) == HeaderTree(flavour, str(flavour))


def test_fedora_directory_of_another_release_will_do(root: Path) -> None:
    tree = make(root / "usr/src/kernels/6.9.4-200.fc40.x86_64", *HANDWRITTEN, *GENERATED)
    assert find(root) == HeaderTree(tree, str(tree))


def test_headers_of_another_architecture_are_passed_over(root: Path) -> None:
    other = "arm64" if architecture(platform.machine()) != "arm64" else "x86"
    files = [file.replace(ARCH, f"arch/{other}/include") for file in (*HANDWRITTEN, *GENERATED)]
    make(root / "usr/src/linux-headers-6.1.0-9-other", *files)
    with pytest.raises(KernelError, match="no kernel headers"):
        find(root)


@pytest.mark.parametrize(
    ("os_release", "remedy"),
    [
        ("ID=debian\n", "apt-get install linux-headers-"),
        (
            'NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n',
            f"apt-get install linux-headers-{RELEASE}, or",
        ),
        ("ID=ubuntu\nID_LIKE=debian\n", "or else linux-headers-generic"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf install kernel-devel"),
        ("ID=void\nnonsense\n", "install your distribution's kernel headers"),
        ("", "install your distribution's kernel headers"),
    ],
)
def test_no_headers_names_the_package_of_the_distribution(root: Path, os_release: str, remedy: str) -> None:
    if os_release:
        make(root / "etc", "os-release")
        (root / "etc/os-release").write_text(os_release)
    with pytest.raises(KernelError) as caught:
        find(root)
    assert str(caught.value).startswith(f"no kernel headers for {RELEASE} can be found")
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("machine", "name"),
    [("x86_64", "x86"), ("i686", "x86"), ("aarch64", "arm64"), ("armv7l", "arm"), ("new", "new")],
)
def test_architecture_is_the_kernels_name(machine: str, name: str) -> None:
    assert architecture(machine) == name


def test_this_machines_headers_have_what_the_programs_include(tmp_path: Path) -> None:
    try:
        tree = find_headers(None, os.uname().release, tmp_path)
    except KernelError as error:
        pytest.skip(str(error))
    if tree.path is not None:
        assert "enum bpf_prog_type" in (tree.path / "include/uapi/linux/bpf.h").read_text(encoding="utf-8")
