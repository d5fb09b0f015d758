"""What can be said of selectors without knowing pods: checked against all small sets of labels."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from interceptor.network_policy.selector import EVERYTHING, Operator, Requirement, Selector

VALUES = (None, "x", "y", "z")
UNIVERSE = [
    {key: value for key, value in zip("ab", values, strict=True) if value is not None}
    for values in product(VALUES, VALUES)
]
_VALUES = st.frozensets(st.sampled_from("xyz"), min_size=1)
REQUIREMENTS = st.builds(
    Requirement, st.sampled_from("ab"), st.sampled_from([Operator.IN, Operator.NOT_IN]), _VALUES
) | st.builds(Requirement, st.sampled_from("ab"), st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST]))
SELECTORS = st.frozensets(REQUIREMENTS, max_size=3).map(Selector)


def selected(selector: Selector) -> list[dict[str, str]]:
    return [labels for labels in UNIVERSE if selector.could_match(labels, are_all=True)]


@given(SELECTORS, SELECTORS)
def test_selector_that_includes_another_selects_all_of_it(one, other):
    if one.includes(other):
        assert all(labels in selected(one) for labels in selected(other))


@given(SELECTORS, SELECTORS)
def test_selectors_that_cannot_overlap_select_nothing_in_common(one, other):
    if not one.could_overlap(other):
        assert not [labels for labels in selected(one) if labels in selected(other)]


@given(SELECTORS, st.sampled_from(UNIVERSE), st.sampled_from(VALUES))
def test_labels_that_are_not_known_may_be_anything(selector, labels, value):
    known = {key: text for key, text in labels.items() if key == "a"}
    whole = {**known, **({} if value is None else {"b": value})}
    if selector.could_match(whole, are_all=True) and "a" in known:
        assert selector.could_match(known, are_all=False)


@given(REQUIREMENTS)
def test_requirement_excludes_itself_only_when_nothing_fulfils_it(requirement):
    assert requirement.follows_from(requirement)
    assert not requirement.contradicts(requirement)


def test_everything_includes_every_selector_and_is_included_in_none_other():
    web = Selector(frozenset([Requirement("app", Operator.IN, frozenset(["web"]))]))
    assert EVERYTHING.includes(web)
    assert not web.includes(EVERYTHING)


def test_contradictions_that_are_certain_are_seen():
    def one(operator: Operator, *values: str) -> Requirement:
        return Requirement("a", operator, frozenset(values))

    assert one(Operator.IN, "x").contradicts(one(Operator.IN, "y"))
    assert one(Operator.IN, "x").contradicts(one(Operator.DOES_NOT_EXIST))
    assert one(Operator.NOT_IN, "x", "y").contradicts(one(Operator.IN, "x"))
    assert one(Operator.EXISTS).contradicts(one(Operator.DOES_NOT_EXIST))
    assert not one(Operator.EXISTS).contradicts(one(Operator.NOT_IN, "x"))
    assert not one(Operator.IN, "x").contradicts(Requirement("b", Operator.IN, frozenset("y")))
    assert not Requirement("b", Operator.EXISTS).follows_from(one(Operator.IN, "x"))


def test_labels_say_what_equality_says_and_nothing_more():
    assert EVERYTHING.as_labels() == {}
    two = Requirement("a", Operator.IN, frozenset("xy"))
    assert Selector(frozenset([two])).as_labels() is None
    assert Selector(frozenset([Requirement("a", Operator.EXISTS)])).as_labels() is None
    both = frozenset(
        [Requirement("b", Operator.IN, frozenset("x")), Requirement("a", Operator.IN, frozenset("y"))]
    )
    assert list(Selector(both).as_labels() or {}) == ["a", "b"]
