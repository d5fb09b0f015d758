"""The persistent map is a dict whose older versions stay as they were."""

from hypothesis import given
from hypothesis import strategies as st

from interceptor.cluster.persistent_map import BUCKETS, PersistentMap

_CHANGES = st.lists(st.tuples(st.booleans(), st.integers(0, 3 * BUCKETS), st.integers()), max_size=60)


@given(st.dictionaries(st.integers(0, 3 * BUCKETS), st.integers()), _CHANGES)
def test_persistent_map_after_any_changes_is_as_a_dict(
    start: dict[int, int], changes: list[tuple[bool, int, int]]
) -> None:
    model, current = dict(start), PersistentMap(start.items())
    kept = []
    for is_addition, key, value in changes:
        kept.append((dict(model), current))
        if is_addition:
            model[key] = value
            current = current.with_(key, value)
        else:
            model.pop(key, None)
            current = current.without(key)
    for expected, found in [*kept, (model, current)]:
        assert dict(found.items()) == expected
        assert sorted(found) == sorted(expected)
        assert sorted(found.values()) == sorted(expected.values())
        assert len(found) == len(expected)


def test_persistent_map_finds_what_is_there() -> None:
    found = PersistentMap([("a", 1), ("a", 2)])
    assert (found.get("a"), found.get("b"), found.get("b", 7)) == (2, None, 7)
    assert "a" in found
    assert "b" not in found
    assert found.without("b") is found
