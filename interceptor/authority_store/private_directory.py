"""A directory that is ours alone, and sets of files that appear in it at once or not at all.

Files are never changed in place. A set of new files is written into a fresh directory `.<name>.new` (files and
directory synced), and one rename to `<name>` makes the set real. A kill before it leaves a directory to discard at the
next start, a kill after it a complete set. Where the set must replace files that exist already, no single rename can
do that: the files of the published directory are moved over the old ones, which can be repeated until it is done.

Everything is reached through open directories and never through symbolic links, so nobody can swap a path between
check and use. Errors of the system come out as OSError; what a person must put right, as StateError.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from interceptor.errors import StateError

Tree = Mapping[str, "bytes | Tree"]  # files, and directories of files

MAX_FILE_BYTES: Final = 64 * 1024  # a bundle of a dozen roots has 10 KiB
GROUP_OR_OTHERS: Final = 0o077
WRITABLE_BY_GROUP_OR_OTHERS: Final = 0o022


def staging_name(name: str) -> str:
    """Where a set is built that will be published as `name`."""
    return f".{name}.new"


@dataclass(frozen=True, slots=True)
class PrivateDirectory:
    """An open directory; `path` is for messages only."""

    path: Path
    fd: int

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[Self]:
        """Open the parent: it may be a symbolic link, but nobody else may be able to rename things in it."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise StateError(
                f"{path} is not a directory: create it with 'install -d -m 700 {path}'"
            ) from None
        try:
            status = os.fstat(fd)
            shared = status.st_mode & WRITABLE_BY_GROUP_OR_OTHERS and not status.st_mode & stat.S_ISVTX
            if shared or status.st_uid not in {0, os.geteuid()}:
                raise StateError(
                    f"{path} can be changed by other users: chown {os.geteuid()} {path} && chmod go-w {path}"
                )
            yield cls(path, fd)
        finally:
            os.close(fd)

    @contextmanager
    def child(self, name: str) -> Iterator[Self]:
        """Open a directory in this one, which must be ours alone."""
        path = self.path / name
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except NotADirectoryError:
            raise StateError(f"{path} is a symbolic link or a file: replace it by a directory") from None
        try:
            _require_ours(path, os.fstat(fd), GROUP_OR_OTHERS, remedy="chmod 700")
            yield type(self)(path, fd)
        finally:
            os.close(fd)

    def names(self) -> set[str]:
        with os.scandir(self.fd) as entries:
            return {entry.name for entry in entries}

    def has_content(self, name: str) -> bool:
        """Say whether there is anything of that name but an empty directory."""
        if name not in self.names():
            return False
        with self.child(name) as directory:
            return bool(directory.names())

    def read(self, name: str, forbidden_mode: int) -> bytes:
        """Return the content of a regular file of ours, none of whose mode bits are forbidden."""
        path = self.path / name
        try:
            # Non-blocking: opening a FIFO that somebody put here would otherwise wait for ever.
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise StateError(f"{path} is a symbolic link: replace it by the file itself") from None
            raise
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
                raise StateError(f"{path} is not a file of at most {MAX_FILE_BYTES} bytes: move it away")
            _require_ours(path, status, forbidden_mode, remedy="chmod 600")
            return os.read(fd, MAX_FILE_BYTES)
        finally:
            os.close(fd)

    def require_private_file(self, name: str) -> None:
        """Check, without opening it, a regular file that only we may read; raises StateError."""
        path = self.path / name
        status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise StateError(f"{path} is not a regular file: replace it by the file itself")
        _require_ours(path, status, GROUP_OR_OTHERS, remedy="chmod 600")

    def publish(self, name: str, files: Tree) -> None:
        """Make a directory with these files appear at once, or not at all; an empty one there is replaced."""
        staging = staging_name(name)
        os.mkdir(staging, 0o700, dir_fd=self.fd)
        try:
            with self.child(staging) as fresh:
                fresh.fill(files)
            os.rename(staging, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except BaseException:
            self.discard(staging)
            raise
        os.fsync(self.fd)

    def fill(self, files: Tree) -> None:
        """Write new files and directories, and sync them."""
        for name, content in files.items():
            if isinstance(content, bytes):
                self.write_new(name, content)
                continue
            os.mkdir(name, 0o700, dir_fd=self.fd)
            with self.child(name) as directory:
                directory.fill(content)
        os.fsync(self.fd)

    def write_new(self, name: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=self.fd), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def absorb(self, name: str, files: tuple[str, ...]) -> None:
        """Move the files of a published directory over ours; may be interrupted anywhere and repeated."""
        if name not in self.names():
            return
        with self.child(name) as source:
            for file_name in files:
                if file_name in source.names():
                    os.rename(file_name, file_name, src_dir_fd=source.fd, dst_dir_fd=self.fd)
            os.fsync(source.fd)
        os.rmdir(name, dir_fd=self.fd)
        os.fsync(self.fd)

    def discard(self, name: str) -> None:
        """Remove a directory with all that is in it, if it is there; may be interrupted anywhere and repeated."""
        if name not in self.names():
            return
        with self.child(name) as leftover:
            for entry in leftover.names():
                if stat.S_ISDIR(os.stat(entry, dir_fd=leftover.fd, follow_symlinks=False).st_mode):
                    leftover.discard(entry)
                else:
                    os.unlink(entry, dir_fd=leftover.fd)
        os.rmdir(name, dir_fd=self.fd)


def _require_ours(path: Path, status: os.stat_result, forbidden_mode: int, *, remedy: str) -> None:
    if status.st_uid != os.geteuid():
        raise StateError(
            f"{path} belongs to user {status.st_uid}, we are user {os.geteuid()}: chown {os.geteuid()} {path}"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden_mode:
        raise StateError(f"{path} is open to group or others (mode {mode:04o}): {remedy} {path}")
