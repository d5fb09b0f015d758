"""Who may take a Lease, and what is written then."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from interceptor.cluster.head import ObjectKey
from interceptor.errors import InvalidInput
from interceptor.shared_authority.lease import (
    DURATION_SECONDS,
    GOOD_SECONDS,
    RENEW_SECONDS,
    Lease,
    Sight,
    collection,
    may_take,
    parse_lease,
    path,
    released,
    seen,
    taken,
)

KEY = ObjectKey("interceptor", "authority")
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
HELD = Lease("7", "b", "2026-01-01T00:00:00.000000Z", 15, 3)


def spec(data):
    return json.loads(data)["spec"]


def test_lease_is_good_for_less_long_than_others_wait():
    assert RENEW_SECONDS * 3 < GOOD_SECONDS < DURATION_SECONDS - 4


@pytest.mark.parametrize(
    ("holder", "now", "expected"),
    [("b", 114.9, False), ("b", 115.0, True), (None, 100.0, True), ("me", 100.0, True)],
)
def test_lease_may_be_taken_from_nobody_and_from_who_is_silent(holder, now, expected):
    assert may_take(Sight(replace(HELD, holder=holder), 100.0), "me", now) is expected


def test_lease_is_as_old_as_its_version_is_to_us():
    first = seen(None, HELD, 100.0)
    assert seen(first, HELD, 110.0) is first
    assert seen(first, replace(HELD, version="8"), 110.0).since == 110.0


def test_lease_that_is_new_is_created():
    sent = json.loads(taken(KEY, "me", None, NOW))
    assert "resourceVersion" not in sent["metadata"]
    assert sent["spec"] == {
        "acquireTime": "2026-03-04T05:06:07.000000Z",
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 0,
        "renewTime": "2026-03-04T05:06:07.000000Z",
    }


def test_lease_of_another_changes_hands_at_its_version():
    sent = json.loads(taken(KEY, "me", HELD, NOW))
    assert sent["metadata"]["resourceVersion"] == "7"
    assert (sent["spec"]["leaseTransitions"], sent["spec"]["acquireTime"]) == (
        4,
        "2026-03-04T05:06:07.000000Z",
    )


@pytest.mark.parametrize(
    ("acquired_at", "shown"), [(HELD.acquired_at, HELD.acquired_at), (None, "2026-03-04T05:06:07.000000Z")]
)
def test_lease_of_ours_is_renewed_and_given_back(acquired_at, shown):
    held = replace(HELD, acquired_at=acquired_at)
    renewed = spec(taken(KEY, "b", held, NOW))
    assert (renewed["acquireTime"], renewed["leaseTransitions"], renewed["renewTime"]) == (
        shown,
        3,
        "2026-03-04T05:06:07.000000Z",
    )
    assert spec(released(KEY, held, NOW)) == {**renewed, "holderIdentity": ""}


def test_lease_is_read_as_it_was_written():
    sent = json.loads(taken(KEY, "me", HELD, NOW))
    found = parse_lease(json.dumps(sent).encode())
    assert found == Lease("7", "me", "2026-03-04T05:06:07.000000Z", 15, 4)
    empty = parse_lease(b'{"metadata": {"resourceVersion": "1"}, "spec": {"holderIdentity": ""}}')
    assert empty == Lease("1", None, None, DURATION_SECONDS, 0)


def test_lease_without_a_version_is_refused():
    with pytest.raises(InvalidInput, match="resourceVersion"):
        parse_lease(b'{"spec": {}}')


def test_paths_are_those_of_the_api():
    assert path(KEY) == f"{collection('interceptor')}/authority"
    assert path(KEY) == "/apis/coordination.k8s.io/v1/namespaces/interceptor/leases/authority"
