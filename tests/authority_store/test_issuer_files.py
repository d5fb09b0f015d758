"""The authority on disk: made whole or not at all, and refused with one line when anything about it is wrong."""

import os
import shutil
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from interceptor.authority_store import AuthorityStore, load_or_create
from interceptor.errors import StateError
from interceptor.identity.authority import Authority
from interceptor.identity.signing_request import create_private_key
from interceptor.identity.spiffe_id import TrustDomain
from tests.authority_store.helpers import (
    DAY,
    DOMAIN,
    NOW,
    contents,
    full_disk,
    issues,
    killed_at,
    only_issuer,
)

FILES = ["intermediate.key", "intermediate.pem", "root.key", "root.pem"]


def opened(home, now=NOW, domain=DOMAIN, **options):
    """Open or make an authority; the one that issues."""
    store = load_or_create(home, domain, now, **options)
    try:
        return store.issuer(now)
    finally:
        store.close()


@pytest.fixture
def made(home):
    """The directory of the only issuer of a new authority."""
    opened(home)
    return only_issuer(home)


def refusal(home, domain=DOMAIN, now=NOW, **options):
    with pytest.raises(StateError) as caught:
        opened(home, now, domain, **options)
    message = str(caught.value)
    assert message.isprintable()
    secrets = [path.read_bytes() for path in home.rglob("*.key") if path.is_file() and not path.is_symlink()]
    lines = {
        line for secret in secrets for line in secret.decode(errors="replace").splitlines() if len(line) > 20
    }
    for link in (caught.value, caught.value.__context__):
        assert not any(line in repr(link) or line in str(link) for line in lines)
    return message


def test_store_first_start_makes_private_files_and_an_authority_that_issues(home):
    old = os.umask(0)
    try:
        assert issues(opened(home))
    finally:
        os.umask(old)
    issuer = only_issuer(home)
    assert sorted(contents(issuer)) == FILES
    assert [path.name for path in home.parent.iterdir()] == ["authority"]
    assert sorted(path.name for path in home.iterdir()) == ["authority.db", "issuers"]
    assert {path.stat().st_mode & 0o777 for path in (home, home / "issuers", issuer)} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in (*issuer.iterdir(), home / "authority.db")} == {0o600}
    assert b"BEGIN PRIVATE KEY" in contents(issuer)["root.key"]  # PKCS#8


def test_store_second_start_gives_the_same_authority_and_writes_nothing(home):
    first = opened(home)
    issuer = only_issuer(home)
    before = (contents(issuer), (home / "authority.db").read_bytes())
    second = opened(home, NOW + DAY)
    assert (second.trust_bundle, second.chain) == (first.trust_bundle, first.chain)
    assert (contents(issuer), (home / "authority.db").read_bytes()) == before


def test_store_empty_directory_is_filled(home):
    home.mkdir(0o700)
    assert issues(opened(home))


def test_store_is_made_only_where_there_is_none(home):
    AuthorityStore.create(home, DOMAIN, NOW).close()
    with pytest.raises(StateError, match="is not empty"):
        AuthorityStore.create(home, DOMAIN, NOW)


def test_store_past_half_the_life_renews_the_intermediate_only(home, made):
    before = contents(made)
    authority = opened(home, NOW + 200 * DAY)
    after = contents(made)
    assert authority.not_after == NOW + 565 * DAY
    assert {name for name in FILES if before[name] != after[name]} == {"intermediate.key", "intermediate.pem"}
    assert sorted(after) == FILES
    assert opened(home, NOW + 201 * DAY).chain == authority.chain


def test_store_expired_intermediate_is_renewed_with_the_root_key(home, made):
    later = NOW + 1000 * DAY
    assert issues(opened(home, later), later)


def test_store_without_root_key_works_until_the_intermediate_ends(home, made):
    before = contents(made)["intermediate.pem"]
    (made / "root.key").unlink()
    later = NOW + 364 * DAY
    assert issues(opened(home, later), later)
    assert contents(made)["intermediate.pem"] == before
    assert "put root.key back" in refusal(home, now=NOW + 365 * DAY)


def test_store_of_another_trust_domain_is_refused(home, made):
    assert (
        "holds the authority of trust domain cluster.local, the configuration says other.example"
        in refusal(home, TrustDomain("other.example"))
    )


@pytest.mark.parametrize(("days", "why"), [(3650, "expired at"), (-1, "set the clock")])
def test_store_whose_root_is_not_valid_now_is_refused(home, made, days, why):
    assert why in refusal(home, now=NOW + days * DAY)


def test_store_with_a_passphrase_has_encrypted_keys_and_issues(home):
    assert issues(opened(home, passphrase=b"correct horse"))
    keys = [path.read_bytes() for path in home.rglob("*.key")]
    assert len(keys) == 2
    assert all(key.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") for key in keys)
    later = NOW + 200 * DAY
    assert issues(opened(home, later, passphrase=b"correct horse"), later)
    assert all(b"ENCRYPTED" in path.read_bytes() for path in home.rglob("*.key"))


def test_store_with_a_passphrase_is_refused_without_it_or_with_another(home):
    opened(home, passphrase=b"correct horse")
    assert "intermediate.key is encrypted: give the passphrase" in refusal(home)
    assert "intermediate.key cannot be opened with this passphrase: check --passphrase-file" in refusal(
        home, passphrase=b"wrong"
    )


def test_store_without_a_passphrase_is_refused_with_one_and_keys_stay_as_they_are(home, made):
    before = {path: path.read_bytes() for path in home.rglob("*.key")}
    said = refusal(home, passphrase=b"correct horse")
    assert "intermediate.key is not encrypted: leave --passphrase-file" in said
    later = NOW + 200 * DAY
    refusal(home, now=later, passphrase=b"correct horse")
    assert {path: path.read_bytes() for path in home.rglob("*.key")} == before


def replaced(name, content):
    def change(directory):
        (directory / name).write_bytes(content(directory) if callable(content) else content)

    return change


def pem(key, encryption=None):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def another_intermediate(directory):
    # A complete one, of another root.
    other = directory.parent.parent.parent / "other"
    opened(other)
    for name in ("intermediate.key", "intermediate.pem"):
        (directory / name).write_bytes((only_issuer(other) / name).read_bytes())


def another_issuer(directory):
    another_intermediate(directory)
    other = only_issuer(directory.parent.parent.parent / "other")
    for name in FILES:
        (directory / name).write_bytes((other / name).read_bytes())


def linked(name):
    def change(directory):
        path = (directory / name).resolve()
        target = directory.parent.parent.parent / path.name
        path.rename(target)
        path.symlink_to(target)

    return change


def opened_to_others(name, mode):
    return lambda directory: (directory / name).chmod(mode)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (opened_to_others("", 0o750), "is open to group or others (mode 0750): chmod 700"),
        (opened_to_others("..", 0o750), "issuers is open to group or others (mode 0750): chmod 700"),
        (opened_to_others("../..", 0o750), "authority is open to group or others (mode 0750): chmod 700"),
        (opened_to_others("../../authority.db", 0o640), "authority.db is open to group or others"),
        (linked("../../authority.db"), "authority.db is not a regular file"),
        (replaced("../../authority.db", b""), "authority.db is not the database of an authority"),
        (replaced("../../authority.db", b"garbage" * 1000), "the file is no database"),
        (
            lambda issuer: (issuer / "../../authority.db").unlink(),
            "holds no authority, it lacks authority.db",
        ),
        (lambda issuer: issuer.rename(issuer.parent.parent.parent / "gone"), "the issuer in use"),
        (opened_to_others("", 0o701), "chmod 700"),
        (opened_to_others("root.key", 0o640), "root.key is open to group or others (mode 0640): chmod 600"),
        (opened_to_others("intermediate.key", 0o604), "intermediate.key is open to group or others"),
        (opened_to_others("root.pem", 0o666), "root.pem is open to group or others"),
        (linked("root.key"), "root.key is a symbolic link"),
        (linked("intermediate.pem"), "intermediate.pem is a symbolic link"),
        (replaced("root.pem", b"garbage"), "root.pem is corrupt"),
        (replaced("root.pem", lambda home: (home / "intermediate.pem").read_bytes()), "root.pem is corrupt"),
        (
            lambda issuer: (issuer / "root.pem").write_bytes(
                (issuer / "root.pem").read_bytes() + Authority.create(DOMAIN, NOW).trust_bundle.to_pem()
            ),
            "root.pem is not the one root certificate of cluster.local",
        ),
        (
            replaced("root.pem", lambda _: Authority.create(TrustDomain("x"), NOW).trust_bundle.to_pem()),
            "root.pem is not the one root certificate of cluster.local",
        ),
        (another_issuer, "its root certificate is another than the database names"),
        (replaced("intermediate.pem", b""), "intermediate.pem is corrupt"),
        (replaced("intermediate.key", b"garbage"), "intermediate.key is corrupt"),
        (replaced("root.key", lambda home: (home / "root.key").read_bytes()[:150]), "root.key is corrupt"),
        (replaced("root.key", b"x" * 70_000), "root.key is not a file of at most 65536 bytes"),
        (
            replaced("root.key", pem(create_private_key(), BestAvailableEncryption(b"x"))),
            "is encrypted: give the passphrase",
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
def test_store_that_is_damaged_is_refused_with_file_and_remedy_and_left_alone(home, made, change, why):
    change(made)
    before = {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    message = refusal(home)
    assert why in message
    assert str(home) in message
    assert {path: path.lstat().st_mtime_ns for path in home.rglob("*")} == before


def test_store_in_a_directory_with_other_files_is_refused(home):
    home.mkdir(0o700)
    (home / "notes.txt").write_text("mine")
    assert "holds no authority, it lacks authority.db, issuers" in refusal(home)
    assert contents(home) == {"notes.txt": b"mine"}


def test_store_behind_a_symbolic_link_is_refused(home, made):
    link = home.parent / "link"
    link.symlink_to(home)
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
        assert issues(opened(home))
    else:
        assert "can be changed by other users" in refusal(home)
        assert not home.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["", "root.key", "intermediate.pem"])
def test_store_of_another_user_is_refused(home, made, name):
    os.chown(made / name, 65534, 65534)
    assert "belongs to user 65534, we are user 0: chown 0 " in refusal(home)


def test_store_on_a_full_disk_is_refused_and_nothing_is_half_made(home):
    with full_disk():
        message = refusal(home)
    assert "check disk space" in message
    assert list(home.parent.iterdir()) == []


def test_store_on_a_full_disk_keeps_the_old_intermediate(home, made):
    before = contents(made)
    with full_disk():
        refusal(home, now=NOW + 200 * DAY)
    assert contents(made) == before


def test_store_killed_anywhere_while_being_made_starts_as_if_nothing_had_been(tmp_path, home):
    step = 0
    while killed_at(step, lambda: opened(home)):
        existed = home.exists()
        before = contents(only_issuer(home)) if existed else None
        assert issues(opened(home))
        after = contents(only_issuer(home))
        assert sorted(after) == FILES
        assert not existed or after == before
        assert [path.name for path in tmp_path.iterdir()] == ["authority"]
        shutil.rmtree(home)
        step += 1
    assert step > 15


def test_store_killed_anywhere_in_a_renewal_starts_with_the_old_or_the_new_one(tmp_path, home, made):
    step, outcomes = 0, set()
    original = tmp_path / "original"
    before = contents(made)
    home.rename(original)
    later = NOW + 200 * DAY
    while True:
        shutil.copytree(original, home)
        if not killed_at(step, lambda: opened(home, later)):
            break
        (made / "root.key").unlink()  # so that the next start can finish a renewal, but not begin one
        assert issues(opened(home, later), later)
        assert sorted(contents(made)) == ["intermediate.key", "intermediate.pem", "root.pem"]
        outcomes.add(contents(made)["intermediate.key"] == before["intermediate.key"])
        shutil.rmtree(home)
        step += 1
    assert step > 15
    assert outcomes == {True, False}


def test_running_store_renews_in_time_and_goes_on_with_the_old_one_while_it_cannot(home, made):
    store = load_or_create(home, DOMAIN, NOW)
    try:
        first = store.issuer(NOW)
        later = NOW + 200 * DAY
        with full_disk():
            assert store.issuer(later) is first
            assert "check disk space" in store.renewal_error
            assert store.issuer(later + timedelta(seconds=59)) is first
            with pytest.raises(StateError, match="check disk space"):
                store.issuer(first.not_after)
        renewed = store.issuer(later + timedelta(seconds=60))
        assert renewed.intermediate != first.intermediate
        assert store.renewal_error is None
        assert issues(renewed, later)
    finally:
        store.close()


def test_running_store_renews_with_a_root_key_that_was_put_back(home, made):
    key = (made / "root.key").read_bytes()
    (made / "root.key").unlink()
    store = load_or_create(home, DOMAIN, NOW)
    try:
        later = NOW + 200 * DAY
        first = store.issuer(later)
        (made / "root.key").write_bytes(key)
        assert store.issuer(later + timedelta(seconds=59)) is first
        assert store.issuer(later + timedelta(seconds=60)) is first
        assert "root.key is open to group or others" in store.renewal_error
        (made / "root.key").chmod(0o600)
        assert store.issuer(later + timedelta(seconds=120)).intermediate != first.intermediate
    finally:
        store.close()
