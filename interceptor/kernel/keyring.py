"""A secret that outlives this process and never is on a disk: one key in the kernel's keyring of our user (keyrings(7)).

Kernel memory is neither swapped nor part of any file; it ends with the boot. Every process of the same user can read it,
also one in a container that shares our user namespace and may call keyctl(2), so a caller gives it what is useless alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

from interceptor.errors import KernelError

MAX_SECRET_BYTES: Final = 32767  # of a key of the type "user" (add_key(2))

_NUMBERS = {  # add_key, keyctl
    "x86_64": (248, 250),
    "aarch64": (217, 219),
    "riscv64": (217, 219),
    "s390x": (278, 280),
    "ppc64le": (269, 271),
}
_PROCESS_KEYRING, _USER_KEYRING = ctypes.c_int32(-2), ctypes.c_int32(-4)  # KEY_SPEC_*
_SETPERM, _LINK, _UNLINK, _SEARCH, _READ = 5, 8, 9, 10, 11
# Possessor and user everything, others nothing: the next agent may have a session keyring that does not lead here.
_PERMISSIONS = 0x3F3F0000
_TYPE = b"user"
_ABSENT = {errno.ENOKEY, errno.EKEYEXPIRED, errno.EKEYREVOKED}
_libc = ctypes.CDLL(None, use_errno=True)


class Keyring:
    """One secret under one description, which says whose it is."""

    def __init__(self, description: str) -> None:
        self._description = description.encode()

    def store(self, secret: bytes) -> None:
        """Keep `secret` in place of what was kept before; KernelError when the kernel will not."""
        if not 0 < len(secret) <= MAX_SECRET_BYTES:
            raise KernelError(f"a secret of {len(secret)} bytes does not fit into the kernel's keyring")
        self._possess()
        key = self._call(0, _TYPE, self._description, secret, ctypes.c_size_t(len(secret)), _USER_KEYRING)
        self._keyctl(_SETPERM, key, _PERMISSIONS)

    def load(self) -> bytes | None:
        """What is kept, None when nothing is."""
        key = self._find()
        if key is None:
            return None
        buffer = ctypes.create_string_buffer(MAX_SECRET_BYTES)
        length = self._keyctl(_READ, key, buffer, ctypes.c_size_t(len(buffer)))
        return buffer.raw[:length]

    def remove(self) -> None:
        """Keep nothing any more; nothing there is fine."""
        key = self._find()
        if key is not None:
            self._keyctl(_UNLINK, key, _USER_KEYRING)

    def _possess(self) -> None:
        """What systemd starts has a session keyring that leads nowhere: without a way to the key nobody has rights to it."""
        self._keyctl(_LINK, _USER_KEYRING, _PROCESS_KEYRING)

    def _find(self) -> int | None:
        self._possess()
        try:
            return self._keyctl(_SEARCH, _USER_KEYRING, _TYPE, self._description, 0)
        except KernelError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _ABSENT:
                return None
            raise

    def _keyctl(self, operation: int, *arguments: object) -> int:
        return self._call(1, operation, *arguments)

    def _call(self, which: int, *arguments: object) -> int:
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None:
            raise KernelError(f"no number of the system call keyctl(2) is known for {platform.machine()}")
        result = int(_libc.syscall(numbers[which], *arguments))
        if result < 0:
            error = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            raise KernelError(f"the kernel's keyring cannot be used: {error.strerror}") from error
        return result
