"""An authority that is kept elsewhere is the same one when it is restored, and follows it."""

from contextlib import closing

import pytest

from interceptor.authority.admission import AllowPattern
from interceptor.authority.node_record import NodeRecord
from interceptor.authority.reports import NodeReport
from interceptor.authority.rotation import Step
from interceptor.authority_store import AuthorityStore, without_root_keys
from interceptor.authority_store.issuer_files import (
    INTERMEDIATE_CERTIFICATE,
    INTERMEDIATE_KEY,
    ROOT_CERTIFICATE,
    ROOT_KEY,
)
from interceptor.errors import AuthorityError, StateError
from interceptor.identity.authority import Authority
from interceptor.identity.revocation import RevocationKind
from interceptor.identity.spiffe_id import TrustDomain
from tests.authority_store.helpers import DAY, DOMAIN, NOW, issues

WEB = "spiffe://cluster.local/ns/shop/sa/web"
OTHER = TrustDomain("other.example")


@pytest.fixture
def store(home):
    with closing(AuthorityStore.create(home, DOMAIN, NOW)) as store:
        store.revoke(RevocationKind.IDENTITY, WEB, "key copied", NOW)
        store.federate(Authority.create(OTHER, NOW).trust_bundle)
        store.add_alias(TrustDomain("old.example"))
        yield store


def restored(tmp_path, saved, name="restored", now=NOW, **options):
    return closing(AuthorityStore.restore(tmp_path / name, saved, now, **options))


def test_restored_authority_is_the_one_that_was_saved(store, tmp_path):
    store.rotate(Step.PREPARE, NOW)
    with restored(tmp_path, store.saved()) as again:
        assert again.trust_document() == store.trust_document()
        assert again.rotation_status() == store.rotation_status()
        assert again.issuer(NOW).intermediate == store.issuer(NOW).intermediate
        assert again.saved() == store.saved()
        assert again.rotate(Step.DISTRIBUTE, NOW).other is not None
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "restored").rglob("*.key")} == {0o600}


def test_authority_without_root_keys_issues_and_makes_no_other_issuer(store, tmp_path):
    saved = without_root_keys(store.saved())
    assert not any(ROOT_KEY in name for name in saved)
    with restored(tmp_path, saved) as replica:
        assert issues(replica.issuer(NOW))
        with pytest.raises(AuthorityError, match="without the root key"):
            replica.rotate_intermediate(NOW)
        assert replica.issuer(NOW + 200 * DAY).intermediate == store.issuer(NOW).intermediate


def test_restoring_with_the_root_key_renews_what_is_due(store, tmp_path):
    with restored(tmp_path, store.saved(), now=NOW + 200 * DAY) as renewed:
        assert renewed.saved() != store.saved()
        assert renewed.trust_document() == store.trust_document()


def test_replica_follows_a_rotation_to_its_end(store, tmp_path):
    with restored(tmp_path, without_root_keys(store.saved())) as replica:
        for step in (Step.PREPARE, Step.DISTRIBUTE, Step.ACTIVATE, Step.RETIRE):
            before = replica.version()
            store.rotate(step, NOW)
            replica.adopt(without_root_keys(store.saved()))
            assert replica.version() > before
            assert replica.trust_document() == store.trust_document()
            assert replica.issuer(NOW).intermediate == store.issuer(NOW).intermediate
        assert replica.saved() == without_root_keys(store.saved())


def test_replica_follows_new_intermediates_and_beliefs_and_keeps_its_nodes(store, tmp_path):
    with restored(tmp_path, without_root_keys(store.saved())) as replica:
        replica.add_node("node-1", (AllowPattern.parse("ns/*/sa/*"),), NOW)
        store.rotate_intermediate(NOW)
        store.unrevoke(WEB)
        store.unfederate(OTHER)
        store.remove_alias(TrustDomain("old.example"))
        for _ in range(2):  # the second time nothing is new
            replica.adopt(without_root_keys(store.saved()))
        assert replica.issuer(NOW).intermediate == store.issuer(NOW).intermediate
        assert replica.trust_document() == store.trust_document()
        assert [node.name for node in replica.nodes()] == ["node-1"]


def test_keys_stay_encrypted_when_they_are_saved(home, tmp_path):
    with closing(AuthorityStore.create(home, DOMAIN, NOW, passphrase=b"secret")) as store:
        saved = store.saved()
    keys = [content for name, content in saved.items() if name.endswith(".key")]
    assert len(keys) == 2
    assert all(b"ENCRYPTED" in key for key in keys)
    with pytest.raises(StateError, match="is encrypted"), restored(tmp_path, saved):
        pass
    with restored(tmp_path, saved, passphrase=b"secret") as again:
        assert issues(again.issuer(NOW))


def broken(saved, kind):
    issuer = next(name for name in saved if name.endswith(INTERMEDIATE_KEY))
    state = saved["state.json"]
    match kind:
        case "no state":
            return {name: content for name, content in saved.items() if name != "state.json"}
        case "not JSON":
            return {**saved, "state.json": b"{"}
        case "phase":
            return {**saved, "state.json": state.replace(b'"stable"', b'"dancing"')}
        case "fingerprint":
            return {**saved, "state.json": state.replace(b'"active":"', b'"active":"..')}
        case "root":
            return {**saved, "state.json": state.replace(b"-----BEGIN", b"-----begin")}
        case "revocation":
            return {**saved, "state.json": state.replace(b'["identity",', b"[")}
        case "contradiction":
            return {**saved, "state.json": state.replace(b'"aliases":[', b'"aliases":["old.example",')}
        case "strange file":
            return {**saved, "../../etc/passwd": b"x"}
        case "key":
            return {**saved, issuer: b"garbage"}
        case _:
            return {name: content for name, content in saved.items() if name != issuer}


@pytest.mark.parametrize(
    "kind",
    [
        "no state",
        "not JSON",
        "phase",
        "fingerprint",
        "root",
        "revocation",
        "contradiction",
        "strange file",
        "key",
        "no key",
    ],
)
def test_what_is_broken_is_neither_restored_nor_left_behind(store, tmp_path, kind):
    with pytest.raises(StateError) as caught, restored(tmp_path, broken(store.saved(), kind)):
        pass
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"authority"}


@pytest.mark.parametrize("kind", ["not JSON", "phase", "root", "contradiction", "strange file"])
def test_replica_stays_as_it_was_when_what_it_would_follow_is_broken(store, tmp_path, kind):
    with restored(tmp_path, without_root_keys(store.saved())) as replica:
        before = replica.saved()
        with pytest.raises(StateError):
            replica.adopt(broken(store.saved(), kind))
        assert replica.saved() == before


@pytest.mark.parametrize("file", [ROOT_CERTIFICATE, INTERMEDIATE_KEY, INTERMEDIATE_CERTIFICATE])
def test_issuer_of_a_rotation_that_is_not_whole_is_neither_restored_nor_followed(store, tmp_path, file):
    with restored(tmp_path, without_root_keys(store.saved())) as replica:
        store.rotate(Step.PREPARE, NOW)
        replica.adopt(without_root_keys(store.saved()))
        before, active = replica.saved(), store.head().rotation.active
        for issuer in {name.partition(".")[0] for name in before if name != "state.json"}:
            lacking = {name: content for name, content in before.items() if name != f"{issuer}.{file}"}
            with pytest.raises(StateError, match=rf"lacks {issuer}\.{file}"):
                replica.adopt(lacking)
            with pytest.raises(StateError, match="lacks"), restored(tmp_path, lacking, "again"):
                pass
        assert (replica.saved(), replica.head().rotation.active) == (before, active)


def test_replica_does_not_become_another_trust_domain(store, tmp_path):
    with (
        closing(AuthorityStore.create(tmp_path / "other", OTHER, NOW)) as other,
        restored(tmp_path, without_root_keys(store.saved())) as replica,
        pytest.raises(StateError, match=r"that of trust domain other\.example"),
    ):
        replica.adopt(other.saved())


def test_nodes_that_another_replica_knows_count_in_a_rotation(store, tmp_path):
    bundle_hash = store.trust_document().bundle_hash
    report = NodeReport(bundle_hash, bundle_hash, (), (), NOW)
    allowed = (AllowPattern.parse("ns/*/sa/*"),)
    store.know_nodes(
        [
            NodeRecord("node-1", allowed, NOW, revoked=False, report=report, reported_at=NOW),
            NodeRecord("node-2", allowed, NOW, revoked=False, report=None, reported_at=None),
        ]
    )
    store.rotate(Step.PREPARE, NOW)
    store.rotate(Step.DISTRIBUTE, NOW)
    with pytest.raises(
        AuthorityError, match=r"node-1 \(uses another trust bundle.*node-2 \(has not reported yet\)"
    ):
        store.rotate(Step.ACTIVATE, NOW)
