"""Whatever the order in which states of an object are heard, the newest counts; a list counts against everything."""

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.cluster.cluster import Changed, Cluster, ClusterEvent, Kind, parse_object
from interceptor.cluster.head import ObjectKey
from interceptor.cluster.table import REMEMBERED_REMOVALS
from tests.cluster.api_objects import changed, cluster_of, listed, pod, removed

WEB = ObjectKey("shop", "web")
TOO_LONG = {"app": "x" * 10_000}


def _pod(version: int, address: str = "10.0.0.1", **changes: Any) -> dict[str, Any]:
    return pod("shop/web", address, version=version, **changes)


def _after(*events: ClusterEvent) -> Cluster:
    cluster = Cluster()
    for event in events:
        cluster = cluster.apply(event)
    return cluster


def _version(cluster: Cluster) -> int | None:
    found = cluster.pods.get(WEB)
    return None if found is None else found.head.version


def test_table_takes_news_and_ignores_what_is_old_or_repeated() -> None:
    cluster = _after(changed(Kind.POD, _pod(5)))
    assert cluster.apply(changed(Kind.POD, _pod(5))) is cluster
    assert cluster.apply(changed(Kind.POD, _pod(4))) is cluster
    assert cluster.apply(removed(Kind.POD, _pod(4))) is cluster
    assert _version(cluster.apply(changed(Kind.POD, _pod(6)))) == 6
    assert _version(cluster.apply(removed(Kind.POD, _pod(6)))) is None


def test_table_does_not_bring_back_what_was_removed() -> None:
    cluster = _after(removed(Kind.POD, _pod(6)), changed(Kind.POD, _pod(5)), changed(Kind.POD, _pod(6)))
    assert _version(cluster) is None
    assert _version(cluster.apply(changed(Kind.POD, _pod(7)))) == 7


def test_table_remembers_removals_up_to_a_bound() -> None:
    cluster = _after(removed(Kind.POD, _pod(6)))
    for number in range(2 * REMEMBERED_REMOVALS - 2):
        cluster = cluster.apply(removed(Kind.POD, pod(f"shop/other-{number}", version=7)))
    assert _version(cluster.apply(changed(Kind.POD, _pod(5)))) is None
    cluster = cluster.apply(removed(Kind.POD, pod("shop/last", version=7)))
    assert _version(cluster.apply(changed(Kind.POD, _pod(5)))) == 5


def test_list_counts_against_everything_before_and_events_up_to_it_are_old() -> None:
    cluster = _after(changed(Kind.POD, _pod(50)), listed(Kind.POD, 10, pod("shop/db", "10.0.0.2")))
    assert _version(cluster) is None  # of a store that was restored: versions went back
    assert len(cluster.pods) == 1
    assert cluster.pods.is_listed
    assert cluster.apply(changed(Kind.POD, _pod(10))) is cluster
    assert cluster.apply(removed(Kind.POD, pod("shop/db", version=10))) is cluster
    assert _version(cluster.apply(changed(Kind.POD, _pod(11)))) == 11


def test_table_finds_an_object_by_its_present_addresses_only() -> None:
    first, second = ip_address("10.0.0.1"), ip_address("10.0.0.2")
    cluster = _after(changed(Kind.POD, _pod(1)), changed(Kind.POD, pod("shop/db", "10.0.0.1", version=2)))
    assert [each.head.key.name for each in cluster.pods.find(first)] == ["db", "web"]
    cluster = cluster.apply(changed(Kind.POD, _pod(3, "10.0.0.2")))
    assert [each.head.key.name for each in cluster.pods.find(first)] == ["db"]
    assert [each.head.key.name for each in cluster.pods.find(second)] == ["web"]
    cluster = cluster.apply(removed(Kind.POD, _pod(4)))
    assert cluster.pods.find(second) == ()


def test_object_that_becomes_unreadable_stays_as_it_was_with_its_problem() -> None:
    cluster = _after(changed(Kind.POD, _pod(1)), changed(Kind.POD, _pod(2, labels=TOO_LONG)))
    assert _version(cluster) == 1
    assert len(cluster.problems()) == 1
    assert cluster.apply(changed(Kind.POD, _pod(2, labels=TOO_LONG))) is cluster
    assert cluster.apply(changed(Kind.POD, _pod(1))) is cluster
    good = cluster.apply(changed(Kind.POD, _pod(3)))
    assert (_version(good), good.problems()) == (3, [])
    gone = cluster.apply(removed(Kind.POD, _pod(3)))
    assert (_version(gone), gone.problems()) == (None, [])


def test_object_that_becomes_unreadable_in_a_list_stays_as_it_was() -> None:
    cluster = _after(changed(Kind.POD, _pod(1)), listed(Kind.POD, 9, _pod(2, labels=TOO_LONG)))
    assert _version(cluster) == 1
    assert cluster.pods.find(ip_address("10.0.0.1"))
    assert "label 'app' has the value" in cluster.problems()[0]


@pytest.mark.parametrize("event", [
    Changed(Kind.POD, parse_object(Kind.POD, _pod(2, uid="another", labels=TOO_LONG))),
    listed(Kind.POD, 2, _pod(2, uid="another", labels=TOO_LONG)),
])  # fmt: skip
def test_unreadable_object_with_another_uid_does_not_keep_what_was_there(event: ClusterEvent) -> None:
    cluster = _after(changed(Kind.POD, _pod(1)), event)
    assert _version(cluster) is None
    assert cluster.pods.find(ip_address("10.0.0.1")) == ()
    assert len(cluster.problems()) == 1


class _Api:
    """What an API server would have said: each change with the next version, and lists as of a version."""

    def __init__(self, steps: list[tuple[int, int]]) -> None:
        self.events: list[ClusterEvent] = []
        self.lists: list[ClusterEvent] = [listed(Kind.POD, 0)]
        state: dict[int, dict[str, Any]] = {}
        for version, (name, address) in enumerate(steps, start=1):
            if name in state and address == 0:
                value = state.pop(name)
                value = {**value, "metadata": {**value["metadata"], "resourceVersion": str(version)}}
                self.events.append(removed(Kind.POD, value))
            else:
                value = pod(f"shop/web-{name}", f"10.0.0.{address}", version=version, uid=f"{name}-{version}")
                state[name] = value
                self.events.append(changed(Kind.POD, value))
            self.lists.append(listed(Kind.POD, version, *state.values()))


_STEPS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=25)


@given(_STEPS, st.data())
def test_any_order_of_repeated_events_and_lists_ends_at_the_state_of_the_api(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    api = _Api(steps)
    begin = data.draw(st.integers(0, len(steps)))
    again = data.draw(st.lists(st.sampled_from(api.events), max_size=20))
    relisted = data.draw(st.integers(begin, len(steps)))
    heard = data.draw(st.permutations([*api.events[begin:], *again]))
    middle = data.draw(st.integers(0, len(heard)))
    # A list in between is of a state of the API at that moment: what comes after it is complete from there on.
    cluster = _after(
        api.lists[begin], *heard[:middle], api.lists[relisted], *heard[middle:], *api.events[relisted:]
    )
    expected = _after(api.lists[-1])
    assert dict(cluster.pods.objects.items()) == dict(expected.pods.objects.items())
    for address in map(ip_address, ("10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3")):
        assert cluster.pods.find(address) == expected.pods.find(address)


def test_cluster_of_nothing_is_not_listed() -> None:
    assert not Cluster().pods.is_listed
    assert cluster_of().pods.is_listed
