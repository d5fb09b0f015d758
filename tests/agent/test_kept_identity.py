"""The node's identity across a restart: two halves that are worth nothing alone, and no key on a disk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from interceptor.agent.kept_identity import SECRET_FILE, KeptIdentity
from interceptor.identity.authority import Authority
from interceptor.identity.node_id import NodeId
from interceptor.identity.signing_request import create_private_key, create_signing_request
from interceptor.identity.spiffe_id import TrustDomain
from interceptor.identity.svid import NodeSvid

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.bpf  # for the kernel's keyring

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DOMAIN = TrustDomain("cluster.local")
AUTHORITY = Authority.create(DOMAIN, NOW)
NODE = NodeId(DOMAIN, "node-a")


def new_svid() -> NodeSvid:
    key = create_private_key()
    chain = AUTHORITY.sign(create_signing_request(NODE, key), NODE, timedelta(hours=1), NOW)
    return NodeSvid(NODE, chain, key, NOW)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[KeptIdentity]:
    kept = KeptIdentity(tmp_path)
    yield kept
    kept.remove()


def test_identity_comes_back_as_it_was(kept: KeptIdentity, tmp_path: Path) -> None:
    assert kept.load(NODE) is None
    for svid in (new_svid(), new_svid()):
        kept.store(svid)
        back = KeptIdentity(tmp_path).load(NODE)
        assert back == svid
        assert back is not None
        assert back.private_key.private_numbers() == svid.private_key.private_numbers()
        assert back.issued_at == NOW
    kept.remove()
    assert kept.load(NODE) is None
    assert list(tmp_path.iterdir()) == []


def test_key_is_neither_on_the_disk_nor_to_be_read_in_the_keyring(kept: KeptIdentity, tmp_path: Path) -> None:
    svid = new_svid()
    kept.store(svid)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    key = svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    number = svid.private_key.private_numbers().private_value.to_bytes(32)
    in_keyring = kept._keyring.load()
    assert in_keyring is not None
    for where in (path.read_bytes(), in_keyring):
        for secret in (key, number, key.hex().encode(), number.hex().encode()):
            assert secret not in where


def test_one_half_alone_is_worth_nothing(kept: KeptIdentity, tmp_path: Path) -> None:
    kept.store(new_svid())
    secret = tmp_path / SECRET_FILE
    right = secret.read_bytes()
    for wrong in (bytes(32), b"", right[:31]):
        secret.write_bytes(wrong)
        assert kept.load(NODE) is None
    secret.unlink()
    assert kept.load(NODE) is None
    secret.write_bytes(right)
    assert kept.load(NODE) is not None


def test_identity_of_another_node_is_not_taken(kept: KeptIdentity) -> None:
    kept.store(new_svid())
    assert kept.load(NodeId(DOMAIN, "node-b")) is None


def test_what_lies_in_the_keyring_cannot_be_forged(kept: KeptIdentity) -> None:
    kept.store(new_svid())
    sealed = kept._keyring.load()
    assert sealed is not None
    for forged in (sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:5], b"x"):
        kept._keyring.store(forged)
        assert kept.load(NODE) is None


def test_states_of_two_directories_are_two(kept: KeptIdentity, tmp_path: Path) -> None:
    kept.store(new_svid())
    other = tmp_path / "other"
    other.mkdir()
    assert KeptIdentity(other).load(NODE) is None
