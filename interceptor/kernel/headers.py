"""A tree of kernel headers that bcc can compile with: found, or put together below the run directory.

The programs use only structs of the kernel's stable user interface, so headers of another version than the running
kernel's serve as well. /lib/modules is never changed. What bcc wants is one directory with `include` and `arch`, in
which hand-written and generated headers lie side by side. Debian packages the two apart; a merged tree of symbolic
links, one for each directory that only one of them has, joins them.
"""

from __future__ import annotations

import platform
import re
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interceptor.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_HANDWRITTEN = "include/linux/kconfig.h"
_GENERATED = "include/generated/autoconf.h"

# uname's machine to the kernel's arch/ directory, as bcc does it (kbuild_helper.cc).
_ARCHITECTURES = (
    (r"i.86|x86_64", "x86"),
    (r"aarch64.*|arm64", "arm64"),
    (r"arm.*", "arm"),
    (r"ppc.*|powerpc.*", "powerpc"),
    (r"s390x?", "s390"),
    (r"mips.*", "mips"),
    (r"riscv.*", "riscv"),
    (r"loongarch.*", "loongarch"),
)
# uname's machine to the end of Debian's package name linux-headers-*.
_DEBIAN_FLAVOURS = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "armmp",
    "i686": "686",
    "ppc64le": "powerpc64le",
}


@dataclass(frozen=True, slots=True)
class HeaderTree:
    """What to compile with: `path` is for BCC_KERNEL_SOURCE, and None where bcc finds the headers by itself."""

    path: Path | None
    description: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Directories that together may be a header tree, in the order in which bcc would see them."""

    directories: tuple[Path, ...]
    name: str

    def has(self, relative: str) -> bool:
        return any((directory / relative).exists() for directory in self.directories)

    def missing(self) -> str | None:
        """What keeps bcc from compiling with it, if anything."""
        arch = f"arch/{architecture(platform.machine())}/include"
        needed = (_HANDWRITTEN, _GENERATED, f"{arch}/asm", f"{arch}/generated")
        return next((relative for relative in needed if not self.has(relative)), None)


def architecture(machine: str) -> str:
    """The name under arch/ for a machine as uname(2) calls it."""
    return next((name for pattern, name in _ARCHITECTURES if re.fullmatch(pattern, machine)), machine)


def find_headers(configured: Path | None, release: str, run_dir: Path, root: Path = Path("/")) -> HeaderTree:
    """Find headers for the kernel `release` (uname -r), or assemble them below `run_dir`.

    In this order: `configured` (from the configuration, or BCC_KERNEL_SOURCE), /lib/modules, the running kernel's own
    kheaders.tar.xz, /usr/src. Everything but `configured` and `run_dir` is looked for below `root`. Takes milliseconds,
    except for the first time with kheaders. Raises KernelError when `configured` will not do, or nothing can be had:
    it names the package to install.
    """
    trees = run_dir / "kernel-headers"
    if configured is not None:
        return _configured(configured.absolute(), trees)
    if (tree := _modules(root / "lib/modules" / release)) is not None:
        return tree
    archive = root / "sys/kernel/kheaders.tar.xz"
    if archive.exists():
        path = _assembled(trees / f"kheaders-{release}", lambda target: _unpack(archive, target))
        return HeaderTree(path, f"{archive}, unpacked into {path}")
    for candidate in _installed(root / "usr/src", release):
        if candidate.missing() is None:
            return _usable(candidate, trees)
    raise KernelError(
        f"no kernel headers for {release} can be found, and bcc compiles with them: {_remedy(release, root)}"
    )


def _configured(path: Path, trees: Path) -> HeaderTree:
    candidate = _Candidate((path,), path.name)
    if candidate.missing() is not None and path.is_dir():
        # One half of Debian's, most likely: the other one lies beside it.
        candidate = next(
            (pair for pair in _pairs(path.parent) if path in pair.directories and pair.missing() is None),
            candidate,
        )
    missing = candidate.missing()
    if missing is not None:
        raise KernelError(
            f"{path} is not a kernel header tree, {missing} is not in it: correct paths.kernelHeaders or "
            "BCC_KERNEL_SOURCE, or leave it out to let interceptor look by itself"
        )
    return _usable(candidate, trees)


def _modules(modules: Path) -> HeaderTree | None:
    """What bcc would find by itself; None unless it is complete: links that lead nowhere are common in containers."""
    build, source = modules / "build", modules / "source"
    # bcc takes `source` only beside `build`, and looks into both then.
    directories = (source, build) if build.is_dir() and source.is_dir() else (build,)
    if _Candidate(directories, modules.name).missing() is not None:
        return None
    return HeaderTree(None, " and ".join(map(str, directories)))


def _installed(source: Path, release: str) -> Iterator[_Candidate]:
    """Whatever header packages left in /usr/src: those of the running kernel first, then the newest."""

    def order(candidate: _Candidate) -> tuple[bool, list[int]]:
        return release in candidate.name, [int(number) for number in re.findall(r"\d+", candidate.name)]

    # On Ubuntu the directory of a flavour links to the plain one, and is whole; Fedora's are below `kernels`.
    whole = [
        _Candidate((path,), path.name)
        for path in (*source.glob("linux-headers-*"), *source.glob("kernels/*"))
    ]
    yield from sorted((*whole, *_pairs(source)), key=order, reverse=True)


def _pairs(source: Path) -> Iterator[_Candidate]:
    """Debian's pairs: linux-headers-VERSION-FLAVOUR with -VERSION-common, or -VERSION-common-rt for real-time ones."""
    for common in source.glob("linux-headers-*-common*"):
        version, _, kind = common.name.rpartition("-common")
        for flavour in source.glob(f"{version}-*"):
            is_realtime = flavour.name.startswith(f"{version}-rt-")
            if "-common" not in flavour.name and is_realtime == (kind == "-rt"):
                yield _Candidate((flavour, common), flavour.name)


def _usable(candidate: _Candidate, trees: Path) -> HeaderTree:
    if len(candidate.directories) == 1:
        return HeaderTree(candidate.directories[0], str(candidate.directories[0]))
    path = _assembled(trees / candidate.name, lambda target: _merge(candidate.directories, target))
    return HeaderTree(path, f"{' and '.join(map(str, candidate.directories))}, merged in {path}")


def _assembled(path: Path, build: Callable[[Path], None]) -> Path:
    """The tree at `path`: what is there, if it is whole, or else a new one, which appears in one step."""
    whole = _Candidate((path,), path.name)
    if whole.missing() is None:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as aside:
            target = Path(aside, "new")
            target.mkdir()
            build(target)
            if path.is_dir():
                path.rename(Path(aside, "old"))  # its packages have been removed since
            target.rename(path)
    except (OSError, tarfile.TarError) as error:
        if whole.missing() is not None:  # or else another agent was faster
            raise KernelError(f"cannot assemble kernel headers in {path}: {error}") from error
    if (missing := whole.missing()) is not None:
        raise KernelError(f"the kernel headers assembled in {path} are of no use: {missing} is not in them")
    return path


def _merge(directories: Sequence[Path], target: Path) -> None:
    """Make `target` look like all directories laid over one another, the first one on top."""
    for name in sorted({entry.name for directory in directories for entry in directory.iterdir()}):
        holders = [directory / name for directory in directories if (directory / name).exists()]
        parts = [holder for holder in holders if holder.is_dir()]
        if len(parts) > 1 and len({part.resolve() for part in parts}) > 1:
            (target / name).mkdir()
            _merge(parts, target / name)
        elif holders:
            (target / name).symlink_to(holders[0].absolute())


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive, "r:xz") as opened:
        # The running kernel wrote it. Said aloud, because later versions of Python want one to choose.
        opened.extraction_filter = lambda member, _: member
        opened.extractall(target)  # noqa: S202


def _remedy(release: str, root: Path) -> str:
    """The command that installs headers on this distribution (os-release(5))."""
    try:
        text = (root / "etc/os-release").read_text(encoding="utf-8")
    except OSError:
        text = ""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    family = [word for key in ("ID", "ID_LIKE") for word in fields.get(key, "").strip("\"'").split()]
    machine = platform.machine()
    remedies = {
        "ubuntu": f"apt-get install linux-headers-{release}, or else linux-headers-generic",
        "debian": f"apt-get install linux-headers-{_DEBIAN_FLAVOURS.get(machine, machine)}",
        "fedora": "dnf install kernel-devel",
        "rhel": "dnf install kernel-devel",
    }
    return next(
        (remedies[name] for name in family if name in remedies), "install your distribution's kernel headers"
    )
