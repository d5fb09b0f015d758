"""The authority on disk: made whole or not at all, and refused with one line when anything about it is wrong."""

import os
import resource
import shutil
import signal
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from interceptor.authority_store import load_or_create
from interceptor.errors import StateError
from interceptor.identity.authority import Authority
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import SpiffeId, TrustDomain

DOMAIN = TrustDomain("cluster.local")
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY = timedelta(days=1)
FILES = ["intermediate.key", "intermediate.pem", "root.key", "root.pem"]
STEPS = ("mkdir", "open", "fsync", "rename", "rmdir", "unlink")


@pytest.fixture
def home(tmp_path):
    return tmp_path / "authority"


@pytest.fixture
def made(home):
    load_or_create(home, DOMAIN, NOW)
    return home


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def issues(authority, now=NOW):
    spiffe_id = SpiffeId(DOMAIN, "default", "web")
    request = create_signing_request(spiffe_id, create_private_key())
    return authority.sign(request, spiffe_id, timedelta(hours=1), now)


def refusal(directory, domain=DOMAIN, now=NOW):
    with pytest.raises(StateError) as caught:
        load_or_create(directory, domain, now)
    message = str(caught.value)
    assert message.isprintable()
    secrets = [
        path.read_bytes() for path in directory.glob("*.key") if path.is_file() and not path.is_symlink()
    ]
    lines = {
        line for secret in secrets for line in secret.decode(errors="replace").splitlines() if len(line) > 20
    }
    for link in (caught.value, caught.value.__context__):
        assert not any(line in repr(link) or line in str(link) for line in lines)
    return message


def test_store_first_start_makes_private_files_and_an_authority_that_issues(home):
    old = os.umask(0)
    try:
        authority = load_or_create(home, DOMAIN, NOW)
    finally:
        os.umask(old)
    assert issues(authority)
    assert sorted(contents(home)) == FILES
    assert [path.name for path in home.parent.iterdir()] == ["authority"]
    assert home.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o600}
    assert b"BEGIN PRIVATE KEY" in contents(home)["root.key"]  # PKCS#8


def test_store_second_start_gives_the_same_authority_and_writes_nothing(home):
    first = load_or_create(home, DOMAIN, NOW)
    before = contents(home)
    second = load_or_create(home, DOMAIN, NOW + DAY)
    assert (second.trust_bundle, second.chain) == (first.trust_bundle, first.chain)
    assert contents(home) == before


def test_store_empty_directory_is_filled(home):
    home.mkdir(0o700)
    assert issues(load_or_create(home, DOMAIN, NOW))


def test_store_past_half_the_life_renews_the_intermediate_only(made):
    before = contents(made)
    authority = load_or_create(made, DOMAIN, NOW + 200 * DAY)
    after = contents(made)
    assert authority.not_after == NOW + 565 * DAY
    assert {name for name in FILES if before[name] != after[name]} == {"intermediate.key", "intermediate.pem"}
    assert sorted(after) == FILES
    assert load_or_create(made, DOMAIN, NOW + 201 * DAY).chain == authority.chain


def test_store_expired_intermediate_is_renewed_with_the_root_key(made):
    later = NOW + 1000 * DAY
    assert issues(load_or_create(made, DOMAIN, later), later)


def test_store_without_root_key_works_until_the_intermediate_ends(made):
    before = contents(made)["intermediate.pem"]
    (made / "root.key").unlink()
    later = NOW + 364 * DAY
    assert issues(load_or_create(made, DOMAIN, later), later)
    assert contents(made)["intermediate.pem"] == before
    assert "put root.key back" in refusal(made, now=NOW + 365 * DAY)


def test_store_with_two_roots_loads_both(made):
    successor = Authority.create(DOMAIN, NOW)
    both = contents(made)["root.pem"] + successor.trust_bundle.to_pem()
    (made / "root.pem").write_bytes(both)
    assert len(load_or_create(made, DOMAIN, NOW).trust_bundle.roots) == 2
    load_or_create(made, DOMAIN, NOW + 200 * DAY)
    assert contents(made)["root.pem"] == both


def test_store_of_another_trust_domain_is_refused(made):
    assert (
        "holds the authority of trust domain cluster.local, the configuration says other.example"
        in refusal(made, TrustDomain("other.example"))
    )


@pytest.mark.parametrize(("days", "why"), [(3650, "expired at"), (-1, "set the clock")])
def test_store_whose_root_is_not_valid_now_is_refused(made, days, why):
    assert why in refusal(made, now=NOW + days * DAY)


def replaced(name, content):
    def change(directory):
        (directory / name).write_bytes(content(directory) if callable(content) else content)

    return change


def pem(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def another_intermediate(directory):
    # A complete one, of another root.
    load_or_create(directory.parent / "other", DOMAIN, NOW)
    for name in ("intermediate.key", "intermediate.pem"):
        (directory / name).write_bytes((directory.parent / "other" / name).read_bytes())


def linked(name):
    def change(directory):
        (directory / name).rename(directory.parent / name)
        (directory / name).symlink_to(directory.parent / name)

    return change


def opened_to_others(name, mode):
    return lambda directory: (directory / name).chmod(mode)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (opened_to_others("", 0o750), "authority is open to group or others (mode 0750): chmod 700"),
        (opened_to_others("", 0o701), "chmod 700"),
        (opened_to_others("root.key", 0o640), "root.key is open to group or others (mode 0640): chmod 600"),
        (opened_to_others("intermediate.key", 0o604), "intermediate.key is open to group or others"),
        (opened_to_others("root.pem", 0o666), "root.pem is open to group or others"),
        (linked("root.key"), "root.key is a symbolic link"),
        (linked("intermediate.pem"), "intermediate.pem is a symbolic link"),
        (replaced("root.pem", b"garbage"), "root.pem is corrupt"),
        (replaced("root.pem", lambda home: (home / "intermediate.pem").read_bytes()), "root.pem is corrupt"),
        (replaced("intermediate.pem", b""), "intermediate.pem is corrupt"),
        (replaced("intermediate.key", b"garbage"), "intermediate.key is corrupt"),
        (replaced("root.key", lambda home: (home / "root.key").read_bytes()[:150]), "root.key is corrupt"),
        (replaced("root.key", b"x" * 70_000), "root.key is not a file of at most 65536 bytes"),
        (
            replaced("root.key", pem(create_private_key(), BestAvailableEncryption(b"x"))),
            "not an unencrypted PEM",
        ),
        (
            replaced("root.key", pem(ec.generate_private_key(ec.SECP384R1()))),
            "root.key is not an ECDSA P-256 key",
        ),
        (replaced("root.key", pem(create_private_key())), "root key does not match the root certificate"),
        (replaced("intermediate.key", pem(create_private_key())), "intermediate key does not match"),
        (another_intermediate, "intermediate certificate is not signed by the root certificate"),
        (lambda home: (home / "root.pem").unlink(), "lacks root.pem: restore it from a backup"),
        (lambda home: (home / "intermediate.key").unlink(), "lacks intermediate.key"),
        (
            lambda home: [(home / name).unlink() for name in FILES[:3]],
            "lacks intermediate.key, intermediate.pem",
        ),
        (lambda home: [(home / "root.key").unlink(), (home / "root.key").mkdir()], "root.key is not a file"),
        (
            lambda home: [(home / "root.key").unlink(), os.mkfifo(home / "root.key", 0o600)],
            "root.key is not a file",
        ),
    ],
)
def test_store_that_is_damaged_is_refused_with_file_and_remedy_and_left_alone(made, change, why):
    change(made)
    before = {path.name: path.lstat() for path in made.iterdir()}
    message = refusal(made)
    assert why in message
    assert str(made) in message
    assert {path.name: path.lstat().st_mtime_ns for path in made.iterdir()} == {
        name: status.st_mtime_ns for name, status in before.items()
    }


def test_store_in_a_directory_with_other_files_is_refused(home):
    home.mkdir(0o700)
    (home / "notes.txt").write_text("mine")
    assert "lacks root.pem, intermediate.key, intermediate.pem" in refusal(home)
    assert contents(home) == {"notes.txt": b"mine"}


def test_store_behind_a_symbolic_link_is_refused(made):
    link = made.parent / "link"
    link.symlink_to(made)
    assert "link is a symbolic link or a file" in refusal(link)


def test_store_that_is_a_file_is_refused(home):
    home.write_text("")
    assert "is a symbolic link or a file" in refusal(home)


def test_store_without_parent_is_refused(home):
    assert f"create it with 'install -d -m 700 {home}'" in refusal(home / "deeper")


@pytest.mark.parametrize(
    ("mode", "accepted"), [(0o770, False), (0o707, False), (0o1777, True), (0o755, True)]
)
def test_store_whose_parent_others_can_change_is_refused(home, mode, accepted):
    home.parent.chmod(mode)
    if accepted:
        assert issues(load_or_create(home, DOMAIN, NOW))
    else:
        assert "can be changed by other users" in refusal(home)
        assert not home.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["", "root.key", "intermediate.pem"])
def test_store_of_another_user_is_refused(made, name):
    os.chown(made / name, 65534, 65534)
    assert "belongs to user 65534, we are user 0: chown 0 " in refusal(made)


@contextmanager
def full_disk():
    """Every write to a file fails, as the kernel lets it fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_store_on_a_full_disk_is_refused_and_nothing_is_half_made(home):
    with full_disk():
        message = refusal(home)
    assert "check disk space" in message
    assert list(home.parent.iterdir()) == []


def test_store_on_a_full_disk_keeps_the_old_intermediate(made):
    before = contents(made)
    with full_disk():
        refusal(made, now=NOW + 200 * DAY)
    assert contents(made) == before


def killed_at(step, directory, now):
    """Run load_or_create in a child that kills itself before its system call number `step`; False if it got through."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(call):
            def replacement(*args, **kwargs):
                nonlocal count
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return call(*args, **kwargs)

            return replacement

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            load_or_create(directory, DOMAIN, now)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


def test_store_killed_anywhere_while_being_made_starts_as_if_nothing_had_been(tmp_path):
    step = 0
    while killed_at(step, tmp_path / "authority", NOW):
        made = (tmp_path / "authority").exists()
        before = contents(tmp_path / "authority") if made else None
        assert issues(load_or_create(tmp_path / "authority", DOMAIN, NOW))
        after = contents(tmp_path / "authority")
        assert sorted(after) == FILES
        assert not made or after == before
        assert [path.name for path in tmp_path.iterdir()] == ["authority"]
        shutil.rmtree(tmp_path / "authority")
        step += 1
    assert step > 10


def test_store_killed_anywhere_in_a_renewal_starts_with_the_old_or_the_new_one(tmp_path, made):
    step, outcomes = 0, set()
    original = tmp_path / "original"
    made.rename(original)
    before = contents(original)
    later = NOW + 200 * DAY
    while True:
        shutil.copytree(original, made)
        if not killed_at(step, made, later):
            break
        (made / "root.key").unlink()  # so that the next start can finish a renewal, but not begin one
        assert issues(load_or_create(made, DOMAIN, later), later)
        assert sorted(contents(made)) == ["intermediate.key", "intermediate.pem", "root.pem"]
        outcomes.add(contents(made)["intermediate.key"] == before["intermediate.key"])
        shutil.rmtree(made)
        step += 1
    assert step > 15
    assert outcomes == {True, False}
