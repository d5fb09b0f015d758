"""A secret in the kernel's keyring, against the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from interceptor.errors import KernelError
from interceptor.kernel import keyring as keyrings
from interceptor.kernel.keyring import MAX_SECRET_BYTES, Keyring

if TYPE_CHECKING:
    from collections.abc import Iterator

JOIN_SESSION_KEYRING = 1  # keyctl(2)

pytestmark = pytest.mark.bpf


@pytest.fixture
def description() -> str:
    return f"interceptor test {os.getpid()} {os.urandom(4).hex()}"


@pytest.fixture
def keyring(description: str) -> Iterator[Keyring]:
    keyring = Keyring(description)
    yield keyring
    keyring.remove()


def test_secret_is_kept_replaced_and_removed(keyring: Keyring) -> None:
    assert keyring.load() is None
    keyring.store(b"one")
    assert keyring.load() == b"one"
    keyring.store(b"another\x00one")
    assert keyring.load() == b"another\x00one"
    keyring.remove()
    keyring.remove()
    assert keyring.load() is None


def test_secret_outlives_the_process_that_stored_it(keyring: Keyring, description: str) -> None:
    code = f"from interceptor.kernel.keyring import Keyring; Keyring({description!r}).store(b'kept')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert keyring.load() == b"kept"


def test_secret_is_kept_between_services_that_have_sessions_of_their_own(
    keyring: Keyring, description: str
) -> None:
    """As systemd starts services, and sshd its sessions: with a session keyring from which no way leads to the user's."""
    own_session = (
        "from interceptor.kernel.keyring import Keyring\n"
        f"keyring = Keyring({description!r})\n"
        f"keyring._keyctl({JOIN_SESSION_KEYRING}, None)\n"
    )
    for code in ("keyring.store(b'first')", "keyring.store(b'kept')", "assert keyring.load() == b'kept'"):
        subprocess.run([sys.executable, "-c", own_session + code], check=True)
    assert keyring.load() == b"kept"


def test_secrets_of_two_descriptions_are_two(keyring: Keyring, description: str) -> None:
    other = Keyring(f"{description} other")
    keyring.store(b"one")
    other.store(b"two")
    assert (keyring.load(), other.load()) == (b"one", b"two")
    other.remove()
    assert keyring.load() == b"one"


def test_secret_of_the_largest_size_fits_and_a_larger_one_is_refused(keyring: Keyring) -> None:
    keyring.store(bytes(MAX_SECRET_BYTES))
    assert keyring.load() == bytes(MAX_SECRET_BYTES)
    for wrong in (b"", bytes(MAX_SECRET_BYTES + 1)):
        with pytest.raises(KernelError, match="does not fit"):
            keyring.store(wrong)


def test_secret_of_another_user_cannot_be_had(keyring: Keyring, description: str) -> None:
    keyring.store(b"root's")
    code = f"from interceptor.kernel.keyring import Keyring; print(Keyring({description!r}).load())"
    done = subprocess.run(
        [sys.executable, "-c", code], user=65534, group=65534, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "None"


def test_machine_whose_system_calls_are_not_known_is_told(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyrings.platform, "machine", lambda: "pdp11")
    with pytest.raises(KernelError, match="pdp11"):
        keyring.load()
    monkeypatch.undo()


def test_keyring_that_the_kernel_refuses_is_one_line(keyring: Keyring) -> None:
    with pytest.raises(KernelError, match="keyring cannot be used"):
        keyring._keyctl(keyrings._READ, 0, None, 0)
