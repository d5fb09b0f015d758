"""A rotation on disk: every step whole or not made, whoever is killed when, and nobody's certificates cut off."""

import shutil
from contextlib import closing
from datetime import timedelta

import pytest

from interceptor.authority.admission import AllowPattern
from interceptor.authority.reports import NodeReport
from interceptor.authority.rotation import Phase, Step
from interceptor.authority_store import AuthorityStore
from interceptor.authority_store.database import Database
from interceptor.errors import AuthorityError, StateError
from interceptor.identity.certificates import fingerprint
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

ALL = (AllowPattern.parse("ns/*/sa/*"),)
ROTATION = (Step.PREPARE, Step.DISTRIBUTE, Step.ACTIVATE, Step.RETIRE)


@pytest.fixture
def store(home):
    with closing(AuthorityStore.create(home, DOMAIN, NOW)) as store:
        store.add_node("a", ALL, NOW)
        yield store


def confirm(store, now, *issuers):
    document = store.trust_document()
    store.report("a", NodeReport(document.bundle_hash, document.document_hash, issuers, (), now), now)


def roots(store):
    return {fingerprint(root) for root in store.trust_document().trust_bundles().roots}


def test_rotation_replaces_the_root_and_destroys_the_old_keys(home, store):
    old_files = only_issuer(home)
    old = fingerprint(store.issuer(NOW).root)
    assert store.rotate(Step.PREPARE, NOW).phase is Phase.PREPARED
    assert roots(store) == {old}
    assert fingerprint(store.issuer(NOW).root) == old
    new = store.rotate(Step.DISTRIBUTE, NOW).other
    assert roots(store) == {old, new}
    assert fingerprint(store.issuer(NOW).root) == old
    confirm(store, NOW, old)
    store.rotate(Step.ACTIVATE, NOW)
    assert roots(store) == {old, new}
    assert fingerprint(store.issuer(NOW).root) == new
    confirm(store, NOW + timedelta(seconds=1), new)
    assert store.rotate(Step.RETIRE, NOW + DAY).phase is Phase.STABLE
    assert roots(store) == {new}
    assert only_issuer(home) != old_files
    assert issues(store.issuer(NOW))
    assert store.rotation_status().state.other is None


def test_each_step_is_refused_until_the_node_confirmed_the_one_before(store):
    old = fingerprint(store.issuer(NOW).root)
    confirm(store, NOW, old)
    store.rotate(Step.PREPARE, NOW)
    store.rotate(Step.DISTRIBUTE, NOW)
    turns = ((Step.ACTIVATE, Phase.DISTRIBUTED), (Step.RETIRE, Phase.ACTIVATED))
    for day, (step, phase) in enumerate(turns, start=1):
        with pytest.raises(AuthorityError, match=r"not ready: a \("):
            store.rotate(step, NOW)
        assert store.rotation_status().state.phase is phase
        assert [laggard.node for laggard in store.rotation_status().laggards] == ["a"]
        confirm(store, NOW + day * DAY)
        assert store.rotation_status().laggards == ()
        store.rotate(step, NOW + day * DAY)


def test_node_that_was_removed_is_not_waited_for(store):
    store.rotate(Step.PREPARE, NOW)
    store.rotate(Step.DISTRIBUTE, NOW)
    store.remove_node("a")
    assert store.rotate(Step.ACTIVATE, NOW).phase is Phase.ACTIVATED


@pytest.mark.parametrize("steps", [1, 2])
def test_abort_leaves_what_was_before(home, store, steps):
    before, files = store.trust_document(), only_issuer(home)
    for step in ROTATION[:steps]:
        store.rotate(step, NOW)
    store.rotate(Step.ABORT, NOW)
    assert store.trust_document() == before
    assert only_issuer(home) == files
    assert store.rotate(Step.PREPARE, NOW).phase is Phase.PREPARED


def test_running_service_issues_from_the_new_root_as_soon_as_another_process_activated_it(home, store):
    with closing(AuthorityStore.open(home, NOW)) as service:
        old = service.issuer(NOW).root
        store.rotate(Step.PREPARE, NOW)
        store.rotate(Step.DISTRIBUTE, NOW)
        assert service.issuer(NOW).root == old
        confirm(service, NOW)
        store.rotate(Step.ACTIVATE, NOW)
        assert service.issuer(NOW).root != old
        chain = service.issuer(NOW).chain
        store.rotate_intermediate(NOW)
        assert service.issuer(NOW).chain != chain
        assert service.issuer(NOW).chain == store.issuer(NOW).chain


def test_rotated_intermediate_leaves_the_trust_document_alone(store):
    document, chain = store.trust_document(), store.issuer(NOW).chain
    store.rotate_intermediate(NOW)
    assert store.trust_document() == document
    assert store.issuer(NOW).chain != chain
    assert issues(store.issuer(NOW))


def test_intermediate_without_the_root_key_is_not_rotated(home, store):
    chain = store.issuer(NOW).chain
    (only_issuer(home) / "root.key").unlink()
    with pytest.raises(AuthorityError, match="without the root key"):
        store.rotate_intermediate(NOW)
    assert store.issuer(NOW).chain == chain


def test_rotation_works_with_the_old_root_key_kept_elsewhere(home, store):
    (only_issuer(home) / "root.key").unlink()
    for number, step in enumerate(ROTATION):
        confirm(store, NOW + number * DAY)
        store.rotate(step, NOW + number * DAY - timedelta(seconds=1))
    assert store.rotation_status().state.phase is Phase.STABLE


def test_step_on_a_full_disk_changes_nothing_and_can_be_repeated(home, store):
    for number, step in enumerate(ROTATION):
        now = NOW + number * DAY
        confirm(store, now)
        before = (store.rotation_status(), store.trust_document(), store.issuer(now).chain)
        issuers = sorted(path.name for path in (home / "issuers").iterdir())
        with full_disk(), pytest.raises(StateError) as caught:
            store.rotate(step, now - timedelta(seconds=1))
        assert "disk" in str(caught.value)
        assert str(caught.value).isprintable()
        assert (store.rotation_status(), store.trust_document(), store.issuer(now).chain) == before
        assert sorted(path.name for path in (home / "issuers").iterdir()) == issuers
        store.rotate(step, now - timedelta(seconds=1))


def take(home, step, now):
    with closing(AuthorityStore.open(home, now)) as store:
        store.rotate(step, now)


@pytest.mark.parametrize("step", [*ROTATION, Step.ABORT])
def test_step_killed_anywhere_is_made_or_not_and_the_rotation_goes_on(tmp_path, home, store, step):
    store.close()
    now = NOW
    for earlier in ROTATION[: 2 if step is Step.ABORT else ROTATION.index(step)]:
        take(home, earlier, now)
        now += timedelta(seconds=2)
        with closing(AuthorityStore.open(home, now)) as each:
            confirm(each, now)
    original = tmp_path / "original"
    home.rename(original)
    at, outcomes = 0, set()
    after_commit = (Database, "close")
    while True:
        shutil.copytree(original, home)
        with closing(AuthorityStore.open(home, now)) as each:
            before = (each.rotation_status().state, each.trust_document())
        if not killed_at(at, lambda: take(home, step, now), also=[after_commit]):
            break
        with closing(AuthorityStore.open(home, now)) as each:
            state = each.rotation_status().state
            made = state != before[0]
            outcomes.add(made)
            assert made or each.trust_document() == before[1]
            assert each.node("a") is not None
            kept = {path.name for path in (home / "issuers").iterdir()}
            assert kept == {name[:16] for name in (state.active, state.other) if name}
            assert issues(each.issuer(now), now)
            if not made:
                each.rotate(step, now)
            assert roots(each) == set(each.rotation_status().state.trusted())
        shutil.rmtree(home)
        at += 1
    assert outcomes == {True, False}
    assert at > 5


def test_intermediate_rotation_killed_anywhere_leaves_the_old_or_the_new_one(tmp_path, home, store):
    store.close()
    before = contents(only_issuer(home))
    original = tmp_path / "original"
    home.rename(original)

    def rotate():
        with closing(AuthorityStore.open(home, NOW)) as store:
            store.rotate_intermediate(NOW)

    at, outcomes = 0, set()
    while True:
        shutil.copytree(original, home)
        if not killed_at(at, rotate):
            break
        with closing(AuthorityStore.open(home, NOW)) as each:
            assert issues(each.issuer(NOW))
        after = contents(only_issuer(home))
        assert sorted(after) == sorted(before)
        outcomes.add(after["intermediate.key"] == before["intermediate.key"])
        rotate()
        shutil.rmtree(home)
        at += 1
    assert outcomes == {True, False}


def test_root_whose_issuer_cannot_issue_is_not_activated(home, store):
    store.remove_node("a")
    store.rotate(Step.PREPARE, NOW)
    new = store.rotate(Step.DISTRIBUTE, NOW).other
    (home / "issuers" / new[:16] / "intermediate.key").unlink()
    before = store.rotation_status()
    with pytest.raises(StateError, match=r"lacks intermediate\.key"):
        store.rotate(Step.ACTIVATE, NOW)
    assert store.rotation_status() == before
    assert issues(store.issuer(NOW))
    store.rotate(Step.ABORT, NOW)


def test_database_of_an_old_backup_costs_no_keys(home, store):
    old = (home / "authority.db").read_bytes()
    for number, step in enumerate(ROTATION):
        confirm(store, NOW + number * DAY)
        store.rotate(step, NOW + number * DAY - timedelta(seconds=1))
    store.close()
    new = (home / "authority.db").read_bytes()
    (home / "authority.db").write_bytes(old)
    with pytest.raises(StateError, match="the issuer in use"):
        AuthorityStore.open(home, NOW)
    (home / "authority.db").write_bytes(new)
    with closing(AuthorityStore.open(home, NOW)) as again:
        assert issues(again.issuer(NOW))
